"""The verb `distill`: fit a student to a teacher."""
