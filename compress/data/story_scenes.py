"""The parts around a plot of the built-in stories: openings, scenes with questions of their own, asides, closings.

Notation, shared with `story_plots` and `story_journeys` (read by `stories.parse_plot`): `[a|b]` alternatives,
`<table>` a word of `story_words.WORDS` or a phrase of `PHRASES`, `{slot}` what the story has bound, `a~` a or an.
People are A, B, C and D; `{A}` is the name, `{Ahe}`, `{Ahim}` and `{Ahis}` the pronouns, `{Akind}` girl, boy or the
animal. A and B differ in gender, so that a pronoun is clear where both act. A block: `plot NAME`, `cast PEOPLE
[child]`, `draw SLOTS:TABLE; ...` (all values of a story differ; `inside|outside` draws the table first), `tell` text,
`end` (one of them is drawn) and `ask KIND: question and lead > answer other other` (slots; before any `end`, for all
of them).
"""

PHRASES: dict[str, tuple[str, ...]] = {
    "weather": (
        "the sun [was shining|shone brightly|peeped over the roofs]",
        "[a soft|a cool|a gentle] wind [blew|was blowing] [from the hills|across the fields|through the trees]",
        "[small|fluffy|white] clouds [drifted|sailed] [slowly |lazily |]across the sky",
        "the grass was still wet [with dew|from the rain]",
        "there was a~ [thin|silver|pale] mist over the [fields|river|rooftops]",
        "the birds were singing [in every tree|on the chimney|merrily]",
        "leaves [danced|whirled|rustled] in the [wind|air]",
        "the air smelled of [hay|rain|fresh bread|blossom|pine needles]",
        "a rainbow [hung|stood] over the [hills|valley|roofs]",
        "[thunder grumbled|a storm was grumbling] far away",
    ),
    "meet": (
        "{Ahis} [best|dearest|oldest] friend was {B}, a~ <trait> {Bkind}.",
        "{AHe} had a~ [good|dear|close] friend called {B}, who was a~ <trait> {Bkind}.",
        "Next door lived {B}, a~ <trait> {Bkind}[, and the two were hardly ever apart| who made {Ahim} laugh|].",
        "{AHe} [often|always|nearly always] played with {B}, [the <trait> {Bkind} from across the road|a~"
        " <trait> {Bkind}].",
        "{A} and {B} [had been friends for years|did almost everything together|knew each other very well].",
    ),
    "moral": (
        "It had been a~ [good|long|busy|fine|strange] day.",
        "Then it was time [for supper|for bed|to go home|to wash their hands].",
        "The [moon|first star] [rose|came up|appeared] [over the rooftops|above the trees|behind the hill].",
        "{A} told the whole [story|tale] [at bedtime|over supper|to everybody at home|twice that evening].",
        "They [talked|chatted|spoke] about it [for weeks|all week|until the lamps were lit|for a long, long time].",
        "That [night|evening] {A} [slept|snored] like a [log|stone|dormouse].",
        "And {B} never forgot that [day|evening].",
        "Outside, [the crickets began to sing|the wind grew still|the lamps were lit one by one|it began to"
        " rain softly].",
        '"[What a day|Well, well|How strange life is|Let us do that again]!" said {B}.',
        '"[Tomorrow|Next time|Next week] we will [do something new|think first|get up earlier|bring a friend],"'
        " <said> {A}.",
        "[So they learned|And so everybody learned] that [every day is different|small things count|"
        "it is good to have friends|you never know what will happen].",
        "[After|When] the clock struck [six|seven|eight], they [said goodbye|waved goodbye|all went home].",
    ),
    "aside": (
        "[Far away|Somewhere], [a dog barked|a church bell rang|a cuckoo called|a train hooted].",
        "{A} [hummed a tune|whistled a song|counted on {Ahis} fingers|scratched {Ahis} ear] [<loud>|without"
        " thinking|for fun].",
        "{B} [yawned|sneezed|nodded|stretched|winked|shrugged]. [That made {A} laugh.|Nobody noticed.|It"
        " was still early.|]",
        "{A} [thought|wondered] about it for a [moment|minute|while].",
        '"[I have an idea|Let us think|This is going to be fun|I would never have thought of that]," <said> {B}.',
        "[Meanwhile|All the while] <weather>.",
        "[They were in no hurry|There was plenty of time|Time went by quickly|Neither of them spoke for a while].",
        "A~ <tiny> {seen} [watched|looked at] them [with interest|for a while|<slow>].",
    ),
    "greet": (
        '"[Hello|Good morning|Hi]," said {B}. "[What are you doing|What shall we do today|How are you]?"',
        '"[Come along|Come on|Hurry up|Wake up], {B}!" <cried> {A}.',
        "{B} was already [waiting|there], [as always|of course|full of plans].",
    ),
}

OPENINGS: tuple[str, ...] = (
    "Once upon a time there was a~ <trait> {Akind} [named|called] {A}, who lived in {home}. <meet>",
    "In {home} lived a~ <trait> {Akind} [named|called] {A}. [{AHe} liked <hobby>. |]<meet>",
    "{A} was a~ <trait> {Akind} who [loved|liked|enjoyed] <hobby>. <meet>",
    "One <dayadj> <daypart> in <season>, {A} [looked out of the window|opened the front door|stepped outside]"
    " and noticed that <weather>. <meet>",
    "It was a~ <dayadj> <daypart>, and <weather>. {A}, a~ <trait> {Akind}, [had nothing to do|felt like an adventure"
    "|was up early|wanted some company]. <meet>",
    "[There once lived|Long ago there lived] a~ <trait> {Akind} in {home}. {Ahis} name was {A}. <meet>",
    "Do you know {A}? {AHe} is the <trait> {Akind} who [likes|loves] <hobby>. [Here is what happened one"
    " <dayadj> <daypart>"
    "|This is what happened last <season>|Listen to what happened one <daypart>]. {AHe} was with {B}, a~"
    " <trait> {Bkind}.",
    "{A} and {B} lived in {home}. {A} was <trait>, {B} was <trait>, and [both|the two of them] liked <hobby>.",
    "Everybody in the neighbourhood knew {A}, [a~|the] <trait> {Akind} who liked <hobby>. <meet>",
    "On a~ <dayadj> <daypart> {A} and {B} [met|sat down|got together] [by the fence|near the old pump|under a tree]."
    " [<greet>|{A} was a~ <trait> {Akind}, and {B} was rather <trait>.]",
)

FRIENDS = {
    3: (
        "{C}, a~ <trait> {Ckind} [who lived nearby|from the next street|with freckles], was their friend too.",
        "[That day|Today] {C}, a~ <trait> {Ckind}, [came|had come] to [play|visit|see them].",
        "[Soon|After a while] {C}, a~ <trait> {Ckind}, [came along|joined them|arrived], [out of"
        " breath|with a big smile|hands in {Chis} pockets].",
    ),
    4: (
        "Their friends {C} and {D} [came|had come] to [play|visit|see them].",
        "{C}, a~ <trait> {Ckind}, was there too, and so was {D}.",
        "[Before long|Soon] {C} and {D} [came along|joined them|arrived] as well.",
    ),
}

# Scenes before the plot; they leave its people and things as they are.
SCENES = """
plot breakfast
cast ABC
draw e1 e2 e3:food
tell [For lunch|At noon|When they were hungry,] {A} [ate|had] {e1}, {B} [ate|had] {e2} and {C} [wanted|had] {e3}.
  [Nobody left a crumb.|Everything was [delicious|tasty|fresh].|]
ask food: What did {A} eat? {A} ate > e1 e2 e3
ask food: What did {B} have? {B} had > e2 e1 e3

plot sweets
cast AB
draw e1 e2 e3:sweet; E:elder
tell {E} [had made|was busy making] {e1}, {e2} and {e3}. [{B} took the {e2}, and {A} tried the {e1}|{A} chose the
  {e1}, but {B} liked the {e2} better]. [The {e3} was for later.|Nobody touched the {e3}.] It was all
  [delicious|tasty|sweet].
ask food: Which of the sweet things did {A} choose? {A} chose the > e1 e2 e3
ask food: Which of the sweet things did {B} choose? {B} chose the > e2 e1 e3

plot clothes
cast AB
draw e1 e2 e3:colour; e4 e5:wear
tell [It was chilly, so {A} put on a~ {e1} {e4} and {B} a~ {e2} {e5}|{A} wore a~ {e1} {e4}, and {B} wore a~ {e2} {e5}]
  [with {e3} buttons|with a~ {e3} patch|with {e3} stripes].
ask colour: What colour was the {e4}? The {e4} was > e1 e2 e3
ask colour: What colour was the {e5}? The {e5} was > e2 e1 e3

plot sights
cast AB
draw e1 e2 e3:seen
tell [On the way|Along the path|Before long] they [saw|met|noticed] a~ {e1}, then a~ {e2} and [at last|finally|after
  that] a~ {e3}. [{B} waved to the {e2}.|{A} liked the {e1} best.|{A} greeted the {e3} politely.|]
ask animal: Which animal did they see first? First they saw the > e1 e2 e3
ask animal: Which animal did they see last? The last one was the > e3 e1 e2
ask animal: Which animal came second? After the first one came the > e2 e1 e3

plot days
cast AB
draw e1 e2 e3:day
tell On {e1} it had rained, on {e2} [there had been a storm|the wind had howled], and [only on {e3} could they play
  outside |on {e3} at last the sun came out].
ask day: On which day [did it rain|had it rained]? It rained on > e1 e2 e3
ask day: On which day was the weather fine? It was fine on > e3 e1 e2

plot count
cast AB
draw e1 e2 e3:split; e4:fruit
tell {A} had {e1} {e4} in {Ahis} [pocket|bag|basket]. {AHe} [gave {e2} of them to|shared {e2} with] {B}, so {Ahe}
  [still had|kept|was left with] {e3}. [They were very <yum>.|"Thank you," said {B}.|]
ask number: How many {e4} did {A} have at first? At first the number was > e1 e2 e3
ask number: How many {e4} did {B} get? The number that {B} got was > e2 e1 e3
ask number: How many {e4} did {A} keep? The number that {A} kept was > e3 e1 e2

plot heights
cast ABC
tell {A} was taller than {B}[, and|, but] {C} was [even taller than {A}|the tallest of the three].
ask order: Who was the shortest of the three? The shortest was > B A C
ask order: Who was the tallest of the three? The tallest was > C A B

plot wakeup
cast ABC
tell [{B} had got up before {A}, but after {C}|{C} had got up first, then {B}, and {A} last of all]. [{A} was always
  the sleepy one.|"Good morning, sleepyhead!" said {C} to {A}.|]
ask order: Who had got up first? The first one up was > C A B
ask order: Who had got up last? The last one up was > A B C

plot hats
cast ABC
draw e1 e2 e3:wear
tell {A} [was wearing|wore|had] a~ new {e1}, {B} an old {e2} and {C} a~ [funny|striped|woollen|borrowed] {e3}.
ask owner: Who wore the {e1}? The one with the {e1} was > A B C
ask owner: Who wore the {e2}? The one with the {e2} was > B A C
ask thing: What did {B} wear? {B} wore the > e2 e1 e3
ask thing: What did {C} wear? {C} wore the > e3 e1 e2
"""
