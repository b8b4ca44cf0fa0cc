"""The words of the built-in stories: tables of names, things, places and small phrases, one string a table.

Commas part the entries.
"""

GIRLS = (
    "Mia, Anna, Lily, Ruby, Nora, Ella, Zoe, Clara, Ivy, Maya, Lucy, Emma, Rosa, Jane, Amy, Leila, Sara, Polly, Tess,"
    " Wendy, Kate, Priya"
)
BOYS = (
    "Tom, Ben, Max, Leo, Sam, Finn, Jack, Noah, Omar, Oscar, Theo, Luke, Hugo, Adam, Felix, Ravi, Peter, Simon, Toby,"
    " Victor, Charlie, Dan"
)
SHE_ANIMALS = "Hazel, Dot, Fern, Maple, Pearl, Clover, Pippa, Tilly, Willow, Juniper"
HE_ANIMALS = "Bruno, Rusty, Pip, Otto, Barney, Dusty, Nibbles, Monty, Bumble, Rolo"
KINDS = "rabbit, bear, fox, mouse, badger, otter, hedgehog, squirrel, beaver, mole, raccoon, kitten, puppy"
SHE_ELDERS = "Grandma, Mum, Aunt Rose, Aunt May"
HE_ELDERS = "Grandpa, Dad, Uncle Bert, Uncle Joe"

WORDS: dict[str, str] = {
    # Places, by the preposition which every use of the table gives them.
    "site": "barn, garden, orchard, meadow, forest, shed, stable, greenhouse, cave, valley, playground,"
    " windmill, tower,"
    " courtyard, cornfield, treehouse",
    "open": "garden, meadow, orchard, forest, park, valley, playground, courtyard, cornfield, vineyard, paddock",
    "spot": "pond, mill, beach, market, station, harbour, bridge, farm, lake, bakery, museum, library,"
    " castle, fountain,"
    " lighthouse, waterfall, bandstand, post office",
    "room": "kitchen, attic, cellar, bedroom, hall, bathroom, pantry, workshop, garage, parlour, porch, laundry",
    "store": "basket, drawer, chest, cupboard, suitcase, wardrobe, crate, trunk, sack, hamper, barrel, bucket",
    "inside": "sofa, curtain, door, piano, clock, stove, bookcase, armchair, screen, dresser",
    "outside": "hedge, wall, well, rock, ladder, haystack, fence, oak tree, water tank, statue",
    "land": "desert, jungle, ocean, mountains, clouds, city, swamp, palace, circus, canyon",
    # Things.
    "toy": "ball, drum, doll, train, robot, puzzle, whistle, puppet, teddy, spinning top, marble, trumpet,"
    " rocket, hoop,"
    " tractor, racing car, dinosaur, pirate ship, rattle, skipping rope",
    "flyer": "kite, balloon, paper plane, glider, parachute, streamer",
    "thing": "lantern, key, silver spoon, mitten, bell, ribbon, shell, feather, coin, ring, map, notebook, button,"
    " candle, mirror, cup, comb, purse, umbrella, watch, pebble, thimble, compass, pencil, magnet",
    "wear": "hat, scarf, coat, jumper, cap, apron, jacket, cloak, raincoat, waistcoat, bow tie",
    "build": "boat, cart, bench, birdhouse, sledge, gate, rocking horse, table, chair, swing, letterbox, bicycle",
    "tool": "rope, hammer, shovel, saw, hook, crowbar, axe, pole, chain, wrench, pulley, lever",
    "music": "drum, flute, fiddle, trumpet, guitar, tambourine, harmonica, recorder, accordion, triangle, banjo",
    "gift": "book, scarf, drum, teapot, painting, necklace, music box, clock, blanket, puzzle, telescope, paintbox,"
    " snow globe, cushion, jigsaw, diary",
    "loot": "ring, spoon, coin, button, key, necklace, earring, thimble, brooch, bracelet",
    "colour": "red, blue, green, yellow, orange, purple, pink, brown, black, white, grey, golden, silver",
    "paint": "red, blue, green, yellow, orange, purple, pink, white, turquoise, crimson",
    # Living things.
    "wild": "fox, hedgehog, deer, squirrel, owl, frog, rabbit, badger, otter, woodpecker, lizard, beaver, mole, bat",
    "seen": "heron, butterfly, snail, robin, swan, beetle, dragonfly, toad, ladybird, kingfisher, crow,"
    " bumblebee, pigeon,"
    " sparrow, spider, turtle, caterpillar, grasshopper",
    "farm": "goat, hen, cow, donkey, goose, pony, sheep, pig, dog, cat, rooster, turkey, horse, parrot",
    "baby": "duckling, lamb, calf, foal, chick, owlet, piglet, fawn",
    "flower": "sunflower, tulip, rose, poppy, daisy, lily, bluebell, pumpkin, beanstalk, foxglove, marigold, violet",
    "fruit": "apples, pears, plums, cherries, figs, peaches, walnuts, chestnuts, strawberries, lemons",
    "food": "soup, pancakes, noodles, apple pie, porridge, cheese, rice, toast, salad, stew, dumplings,"
    " pasta, sausages,"
    " beans, potatoes, mushrooms, waffles, pizza, carrots",
    "soupy": "chicken soup, hot broth, stewed apples, porridge, rice pudding, vegetable stew",
    "sweet": "honey cake, ginger biscuits, lemon tart, jam roll, chocolate pudding, plum crumble, cherry muffins,"
    " vanilla ice cream, caramel apples, custard",
    "need": "flour, butter, sugar, milk, honey, cinnamon, salt, cream, cocoa, vanilla, yeast",
    "day": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "job": "baker, farmer, postman, fisherman, teacher, doctor, gardener, carpenter, shepherd, librarian,"
    " tailor, miller,"
    " blacksmith, painter, captain, clockmaker",
    # How somebody felt.
    "low": "sad, worried, lonely, cross, upset, grumpy, gloomy, miserable",
    "fear": "scared, nervous, afraid, frightened, anxious",
    "glad": "happy, glad, thankful, joyful, cheerful, delighted, relieved",
    "rest": "calm, sleepy, hopeful, curious, surprised, tired, puzzled",
    # Small words for variety; never the subject of a question.
    "trait": "kind, clever, cheerful, quiet, brave, curious, gentle, lively, thoughtful, playful, merry,"
    " patient, stubborn,"
    " friendly, busy, little, careful, bold, polite, dreamy, honest, eager, funny, loyal, generous, small, young",
    "lovely": "lovely, beautiful, pretty, splendid, wonderful, charming, fine, handsome, marvellous",
    "big": "big, huge, large, enormous, tall, giant, great",
    "tiny": "tiny, little, small, wee",
    "old": "old, ancient, crooked, dusty, wooden, rusty, creaky, mossy, forgotten",
    "soft": "softly, gently, quietly, kindly, calmly, in a low voice, with a smile, warmly",
    "loud": "loudly, at once, excitedly, happily, cheerfully, with a laugh, in a clear voice",
    "slow": "slowly, carefully, patiently, curiously, without a word",
    "cried": "cried, shouted, called, exclaimed, yelled",
    "said": "said, whispered, murmured, declared, remarked",
    "went": "walked, ran, hurried, skipped, marched, wandered, strolled, raced, trotted, dashed",
    "laughed": "laughed, giggled, smiled, grinned, chuckled, beamed",
    "daypart": "morning, afternoon, day",
    "season": "spring, summer, autumn",
    "dayadj": "bright, sunny, windy, misty, warm, cool, quiet, fresh, mild, golden, breezy, chilly, peaceful",
    "hobby": "drawing maps, climbing trees, telling jokes, singing songs, reading stories, collecting stones,"
    " counting stars, dancing in puddles, building dens, asking questions, watching birds, making paper hats,"
    " solving riddles, whistling tunes, digging holes, riding downhill, inventing games, feeding the ducks",
    "home": "a village by the sea, a town on a hill, a cottage near the woods, a house with a thatched roof,"
    " a valley full of flowers, a street with tall chimneys, a farmhouse beside a stream, a town with a clock tower,"
    " a village between two rivers, a lane lined with poplars, a hamlet under the cliffs, a quiet corner of"
    " the country",
    "den": "a burrow under an old oak, a den beside a stream, a forest full of ferns, a hollow log near the marsh,"
    " a cosy hole below the roots, a wood where mushrooms grew, a hillside covered with heather, a nook"
    " among the pines",
    "yum": "crunchy, warm, sweet, juicy, tasty, delicious, fresh, crispy, buttery",
}
