"""Plots of the built-in stories which lead outside: walks, races, journeys, animals (notation: `story_scenes`)."""

PLOTS = """
plot kite
cast AB
draw p1 p2 p3:open; t1:flyer; k1:colour
tell {A} [took|carried] {Ahis} {k1} {t1} outside. They started in the {p1}[, where there was plenty of room|, where
  the wind was strongest|]. Suddenly a gust [tore|pulled] it out of {Ahis} [hands|grip]! "[Oh no|Catch it|After it]!"
  <cried> {B}. It [sailed|flew| tumbled] over the hedge and came down in the {p2}.
end [They <went> after it|Out of breath, they arrived], but another gust [lifted|caught] it, and it [vanished|dropped]
  into the {p3}. [They were too tired to run after it|There they left it], and walked home past the {p1}[ and the
  {p2}|].
ask place: Where was the {t1} at the end? The {t1} was in the > p3 p1 p2
ask place: Where had the {t1} landed first? It had landed in the > p2 p1 p3
end They looked in the {p3} [by mistake|first], and then [found it at last|saw it lying there]. {A} [carried|took] it
  back to the {p1} and tied it to a [post|stone|branch], [so that it could not escape|with three knots].
ask place: Where was the {t1} at the end? The {t1} was in the > p1 p2 p3
ask place: Where had they looked by mistake? They had looked in the > p3 p1 p2
end It hung [high up|upside down], and nobody could reach it. They [went|ran] to the {p3} to borrow a ladder, but [the
  ladder was too short|there was none]. So the {t1} stayed where it was.
ask place: Where was the {t1} at the end? The {t1} was in the > p2 p1 p3
ask place: Where had they started? They had started in the > p1 p2 p3

plot race
cast ABC
draw p1:spot; G:elder
tell "[I bet I am the fastest|Let us have a race|Nobody can run faster than me]!" <cried> {A}. {G} [drew a line|gave
  the sign], and off they [went|ran], all the way to the {p1} [and back|]. At first {B} was in front[, with {C} close
  behind|].
end But {B} [tripped over a root|lost a shoe], and {C} [passed|overtook] {Bhim}. {A} [stopped|turned round] to help
  {B} up. [So {C} came in first, then {B}, and {A} last of all.|{C} won, and {A} let {B} finish second.]
ask order: Who won the race? The winner was > C A B
ask order: Who came in last? The last one was > A B C
ask doer: Who had bad luck on the way? It had been > B A C
end [Halfway|Near the bushes] {C} [needed a rest|got a stitch], and {A} [came closer and closer|ran like the wind].
  [At the very end|Just before the line] {Ahe} [overtook|passed] {B}. {C} [limped|walked] in last.
ask order: Who won the race? The winner was > A B C
ask order: Who came second? The second was > B A C
ask order: Who came in last? The last one was > C A B
end {A} ran [faster and faster|as hard as {Ahe} could], but {Ahe} only passed {C}. "[Well run|Bravo]!" said {G}, and
  [everybody|they all] drank [lemonade|cold water].
ask order: Who won the race? The winner was > B A C
ask order: Who came in last? The last one was > C A B

plot lend
cast ABCD
draw t1:thing; p1:spot
tell {A} found a~ <lovely> {t1} [near|close to] the {p1}. "[May I hold it|Can I borrow it|Will you lend it to me]?"
  asked {B}, and {A} [let {Bhim} have it|gave it to {Bhim}]. {B} [showed|lent] it to {C}, who [kept it for a while|put
  it in a pocket].
end [Later|In the evening] {C} [passed it on|gave it] to {D}. "[Take good care of it|Do not lose it]," said {A}[, and
  {B} nodded|].
ask owner: Who had the {t1} at the end? The one who had it was > D A B C
ask owner: Who had it just before {D}? The one who had it was > C A B
ask owner: Who had found the {t1}? It had been found by > A B C D
end {D} [wanted it too|begged for it], but {C} gave it back to {A}[, who thanked {Chim}|]. [Now {B} and {D} were a
  little disappointed.|]
ask owner: Who had the {t1} at the end? The one who had it was > A B C D
ask owner: Who had it just before {A} got it back? The one who had it was > C B D
end "[It is my turn|I want it again]," said {B} [after lunch|], and {C} [returned|handed] it to {Bhim}. {A} and {D}
  [went on playing|did not care].
ask owner: Who had the {t1} now? The one who had it was > B A C D
ask owner: Who had it before anyone else? The one who had it was > A C D
end [It began to rain.|It grew late.] {C} [ran home with it|forgot to give it back] before {D} or {A} could [say a
  word|ask for it].
ask owner: Who had the {t1} now? The one who had it was > C A B D

plot rescue
cast AB
draw b1:baby; w1 w2 w3:wild; p1 p2:spot; h1:glad; x1:fear; l1:low
tell At the {p1} they [heard a tiny cry and|looked behind a stone and] found a small {b1}. [It|The poor thing] had
  lost its mother and was {x1}.
  They asked the {w1}, but the {w1} [only shrugged|knew nothing]. They [also asked|went on to] the {w2}, who [pointed
  the wrong way|was fast asleep]. The {w3} [had seen everything|listened well] and [told them|said]: "Go to the {p2}!"
end There the mother was [waiting|calling]. The {b1} was {h1}, and {A}, who had to say goodbye, felt a little {l1}.
ask animal: Which animal knew where to go? It was the > w3 w1 w2
ask animal: Which animal did they ask first? It was the > w1 w2 w3
ask feeling: How did the {b1} feel at the end? The {b1} felt > h1 x1 l1
ask feeling: How did {A} feel at the end? {A} felt > l1 h1 x1
end [So they did|Off they went], and on the way they met the {w2} again. "[Well done|Good luck]!" it called. [Soon|In
  no time] the {b1} was back [with its family|with its mother], and the {w1} came to [celebrate|say hello].
ask animal: Who had told them the way? It was the > w3 w1 w2
ask animal: Which animal did they ask second? It was the > w2 w1 w3
ask animal: Which animal came in the end? It was the > w1 w2 w3

plot noise
cast ABC
draw w1 w2 w3:wild; x1:fear; h1:glad; f1:rest
tell They slept in a tent. [In the middle of the night|At midnight] there was a [scratching|rustling|snapping] noise.
  "It is a~ {w1}," [whispered|said] {A}, who was {x1}. "No, [surely|I think] it is a~ {w2}," said {B}, who felt {f1}.
  {C} [thought of|guessed] a~ {w3}.
end {A} [switched on|lifted] the [torch|lamp]. There sat a~ {w2}, [munching|eating] their [bread|biscuits]! [Not a~
  {w1} and not a~ {w3}.|The {w3} was only in {Chis} dream.|] {A} was {h1}.
ask animal: Which animal made the noise? It was the > w2 w1 w3
ask doer: Who had guessed right? It had been > B A C
ask feeling: How did {A} feel at the end? {A} felt > h1 x1 f1
end {C} [peeped|looked] out. "[I was right|I told you so]!" {Che} [laughed|said]. [The visitor blinked and trotted
  away.|Two bright eyes looked in.] {B} would have liked to see a~ {w2}[, or a~ {w1} at least|].
ask doer: Who had guessed right? It had been > C A B
ask animal: Which animal had {A} guessed? {A} had guessed the > w1 w2 w3
ask animal: Which animal made the noise? It was the > w3 w1 w2
end In the morning they saw the tracks [in the mud|in the sand]. They were the tracks of a~ {w1}, [clear as day|no
  doubt about it]. {C} [could not believe it|still spoke of a~ {w3}], and {B} [made pancakes|dreamed of a~ {w2}].
ask animal: Which animal had made the noise? It was the > w1 w2 w3
ask doer: Who had guessed right? It had been > A B C

plot market
cast AB
draw n1 n2 n3:split; f1 f2:fruit; p1 p2 p3:spot; G:elder
tell {G} [needed|wanted] some {f1} from the market. {A} took the [big|round] basket and bought {n1} {f1}[ from a~
  <trait> woman|]. [On the way home|At the {p1}] they met a~ [hungry|poor|tired] old <job> and gave away {n2} of them.
end So there were {n3} left [when they got home|for {G}]. "[Better than nothing|You did the right thing]," said {G}.
ask number: How many {f1} were left? The number left was > n3 n1 n2
ask number: How many {f1} had they bought? The number bought was > n1 n2 n3
ask number: How many {f1} had they given away? The number given away was > n2 n1 n3
end "[We still have|There are still] {n3}," said {B}, [who could count well|after counting twice]. {G} [baked|made] a
  pie with them[, and it tasted <yum>|].
ask number: How many {f1} were given away? The number given away was > n2 n1 n3
ask number: How many {f1} did they bring home? The number brought home was > n3 n1 n2

plot seeds
cast ABC
draw f1 f2 f3:flower; k1 k2 k3:colour
tell Each of them [planted|sowed] a seed. {A} planted a~ {f1} in a~ {k1} pot, {B} a~ {f2} in a~ {k2} pot, and {C} a~
  {f3} in a~ {k3} one. They [watered them|waited] every [day|evening]. [Weeks went by.|At first there was only earth.]
end The {f2} [came up first|was the first to sprout], [but a snail ate it|but it stayed small]. The {f1} never grew at
  all. And the {f3}? It grew [as tall as a chair|up to the window]!
ask doer: Whose plant grew tallest? The tallest belonged to > C A B
ask flower: Which plant came up first? The first was the > f2 f1 f3
ask colour: What colour was the pot where nothing grew? That pot was > k1 k2 k3
end One night the wind [blew|knocked] over the {k2} pot, and it broke. {A} [lent|gave] {B} half of the {k1} one. There
  the {f2} grew next to the {f1}[ like a sister|], and [bees|butterflies] came to both.
ask colour: In which pot did the {f2} grow in the end? That pot was > k1 k2 k3
ask colour: What colour was the pot of {C}? That pot was > k3 k1 k2
ask doer: Whose pot had been broken? It belonged to > B A C
end {A} [poured|gave] too much water, so the {f1} [drowned|went soft]. {C} forgot about the {f3}, and it dried up.
  Only one plant [opened|bloomed], [and it was <lovely>|and everybody admired it].
ask flower: Which plant bloomed? The plant that bloomed was the > f2 f1 f3
ask doer: Who had forgotten about a plant? It had been > C A B
ask colour: What colour was the pot with too much water? That pot was > k1 k2 k3

plot scarecrow
cast ABC
draw w1 w2 w3:wear; f1:farm
tell [They wanted to build a scarecrow|The birds were eating all the corn, so they made a scarecrow]. They
  [filled|stuffed] a sack with straw and gave it [a turnip for a head|two buttons for eyes]. {A} gave it {Ahis} {w1},
  {B} [gave it|added] a~ {w2}, and {C} [lent|gave] it a~ {w3}. [It looked almost alive.|It looked like the mayor.]
end [But when they came back after lunch|The next day], something was missing. A~ {f1} had [run off with|eaten] the
  {w2}! [The {w1} and the {w3} were still there.|"At least I still have my {w1}," said {A}.]
ask thing: What was missing? What was missing was the > w2 w1 w3
ask owner: Whose gift did the {f1} take? It came from > B A C
ask owner: Who had given the {w3}? It came from > C A B
end [Then {A} began to shiver|{A} was cold] and took the {w1} back. In return {C} [combed its straw hair|put a bucket
  on its head], and [the wind took the {w3}|the {w3} blew away].
ask thing: Which of their things did the scarecrow still wear? It still wore the > w2 w1 w3
ask thing: What did the wind take? The wind took the > w3 w1 w2
ask owner: Who had shivered? It had been > A B C

plot magpie
cast AB
draw l1 l2 l3:loot; p1 p2 p3:spot; G:elder
tell Things [disappeared|went missing] in the village. At the {p1} somebody missed a~ {l1}, at the {p2} a~ {l2} was
  gone, and at the {p3} a~ {l3}. "[A thief|How odd]!" said {G}. [But {A} found a black and white feather.|But {B} had
  seen a magpie.] They [climbed|looked into] the highest tree.
end In the nest lay [all of it|the three things], and they [brought everything back|carried it down]. [Only|But] the
  {l3} {G} [was allowed to keep|got as a reward].
ask thing: What had been taken at the {p2}? It was the > l2 l1 l3
ask place: Where had the {l1} been taken? It had been taken at the > p1 p2 p3
ask thing: What did {G} get? {G} got the > l3 l1 l2
end In the nest they found only the {l1} and the {l3}. [The other thing stayed lost.|So one thing was still missing.]
  [They went back to the {p3} first.|They told the people at the {p1}.|]
ask thing: What was still missing? It was the > l2 l1 l3
ask place: Where had the missing thing been taken? It had been taken at the > p2 p1 p3

plot train
cast AB
draw p1 p2 p3:spot; t1:wear; f1 f2:seen; G:elder
tell They took the [little|slow|old] train to visit {G}. [First|At noon] it stopped at the {p1}, where {A}
  [bought|ate] an ice cream. [Next|Then] it stopped at the {p2}, where they [watched|fed] a~ {f1}. [Last of
  all|Finally] they got off at the {p3}. {G} was [waving|there].
end "[Where is my {t1}?|Oh no, my {t1}!]" said {B}. {BHe} had put it on a bench [at the {p2}|beside the {f1}]! [They
  telephoned the {p1} by mistake, and then the right place.|"We will fetch it tomorrow," said {G}.]
ask place: Where had {B} left the {t1}? It was at the > p2 p1 p3
ask place: Where did {G} wait for them? {G} waited at the > p3 p1 p2
ask place: Where did the train stop first? It stopped at the > p1 p2 p3
end On the way back {A} [forgot|lost] {Ahis} {t1} [where {Ahe} had eaten the ice cream|at the stop with the ice
  cream]. [They noticed it too late.|Luckily the <job> kept it.]
ask place: Where had {A} left the {t1}? It was at the > p1 p2 p3
ask place: Where had they seen the {f1}? They had seen it at the > p2 p1 p3
end {B} [hugged|ran to] {G} [so fast|at such speed] that {Bhis} {t1} fell off and [rolled away|was blown away], [and
  there it stayed|never to be seen again].
ask place: Where had {B} lost the {t1}? It was at the > p3 p1 p2
ask place: Where had {A} had an ice cream? It had been at the > p1 p2 p3

plot repair
cast AB
draw t1 t2 t3:tool; b1:build; j1 j2 j3:job
tell The {b1} [was broken|had come apart] and [could not be used|nobody could mend it]. A~ {j1} [came by with|offered]
  a~ {t1}, but it [was too weak|did not help]. A~ {j2} [tried|lent them] a~ {t2}. A~ {j3} [came|arrived] with a~ {t3}.
end [Strange to say|Believe it or not], the {t2} worked[, and the other two men cheered|]. The {t3} [broke|gave way]
  at once. {A} [thanked|paid] them all [with apples|politely].
ask thing: What helped in the end? What helped was the > t2 t1 t3
ask person: Who was able to help? It was the > j2 j1 j3
ask thing: What broke or gave way? It was the > t3 t1 t2
end [That was no good either|Nothing helped], until {B} [had a clever idea|thought again] and [used|tried] the {t1} in
  another way. [Then it was easy.|It took a minute, and it was done!] The {j3} [stared| was amazed], the {j2}
  [whistled|scratched his head].
ask thing: What helped in the end? It was the > t1 t2 t3
ask person: Whose tool helped in the end? It belonged to the > j1 j2 j3
ask person: Who had offered the {t3}? It was the > j3 j1 j2
end [At last|This time] it worked, and the {b1} was [as good as new|mended]. The {j1} and the {j2} [clapped|shook
  hands], [and the {t1} lay in the grass|forgetting the {t2}].
ask person: Who was able to help? It was the > j3 j1 j2
ask thing: What helped in the end? What helped was the > t3 t1 t2

plot dream
cast AB
draw p1 p2 p3:land; k1 k2 k3:colour; w1 w2 w3:seen
tell {A} fell asleep [under a tree|in a chair] and [dreamed|had a strange dream]. {AHe} rode across the {p1} on a~ {k1}
  {w1}[, as big as a horse|]. Then {Ahe} [crossed|flew to] the {p2} with a~ {k2} {w2}[ that could sing|]. [In the
  end|Last of all] {Ahe} came to the {p3}, where a~ {k3} {w3} [served tea|wore slippers].
end "[Wake up|It is late]!" <cried> {B}. {A} told {Bhim} everything. [{B} liked the {k2} {w2} best|{B} liked the {p1}
  best], [and drew a picture|and wished for a dream like that].
ask colour: What colour was the {w3}? The {w3} was > k3 k1 k2
ask colour: What colour was the {w1}? The {w1} was > k1 k2 k3
ask land: Where did {A} meet the {w2}? It was in the > p2 p1 p3
end Just then an acorn fell on {Ahis} nose[, and the dream was over|]. "[And what happened next|How did it go on]?"
  asked {B}. ["I shall never know," <said> {A}.|But the rest was lost.]
ask animal: Which animal was there when {A} woke up from the dream? It was the > w3 w1 w2
ask colour: What colour was the {w2}? The {w2} was > k2 k1 k3
ask land: Where did the dream begin? It began in the > p1 p2 p3
ask animal: On which animal did {A} ride? {A} rode on the > w1 w2 w3

plot letter
cast AB
draw k1 k2 k3:paint; j1 j2 j3:job; t1 t2 t3:gift
tell They helped the postwoman. The {k1} house [was the home of|belonged to] the {j1}, the {k2} one [to|was that of]
  the {j2}, and in the {k3} one lived the {j3}. There were three parcels: a~ {t1} for the {j1}, a~ {t2} for the {j2}
  and a~ {t3} for the {j3}.
end But {A} mixed up two of them. The {j1} got the {t2}, and the {j2} got the {t1}. [Luckily, both of them laughed
  about it.|They found out only at tea.] [The {j3} got the right one.|]
ask thing: What did the {j1} get? The {j1} got the > t2 t1 t3
ask colour: To which house was the {t1} brought? That house was > k2 k1 k3
ask thing: What did the {j3} get? The {j3} got the > t3 t1 t2
end {B} [ran|hurried] to the {k3} house first, then to the {k1} one. [When {Bhe} came to the last one, nobody was
  in|At the last one nobody opened], so that parcel had to wait.
ask thing: Which parcel had to wait? It was the > t2 t1 t3
ask person: Who got a parcel first? It was the > j3 j1 j2
ask person: Who was not at home? It was the > j2 j1 j3
ask colour: What colour was the house of the {j1}? That house was > k1 k2 k3

plot brave
cast ABC
draw x1 x2:fear; h1:glad; f1:rest; p1:spot
tell Near the {p1} there was a~ [high wall|deep pool|wide ditch]. "Who dares to jump?" asked {C}, who [looked|was]
  {f1}. {A} was {x1}, and {B} was {x2}. [Nobody moved.|The others looked at their feet.]
end Then {A} took a deep breath, [closed {Ahis} eyes|counted to three] and jumped. [Hop!|What a leap!|How {Ahe} flew!]
  {AHe} was {h1} now. {B} did not jump and stayed {x2}, and {C} [only pretended|never tried].
ask doer: Who jumped? It was > A B C
ask feeling: How did {A} feel after that? {A} felt > h1 x1 x2 f1
ask feeling: How did {B} feel after that? {B} felt > x2 x1 h1 f1
end "[Hold my hand|I will go first]," said {B}, and jumped. {A} [waited|watched]. Now {B} was {h1}. And {C}? [Suddenly
  {C}|{C}] was no longer {f1} but {x1}, [just like|the same as] {A}.
ask doer: Who jumped? It was > B A C
ask feeling: How did {C} feel at the end? {C} felt > x1 f1 h1 x2
ask feeling: How did {B} feel before jumping? {B} felt > x2 x1 h1 f1

plot stray
cast ABC
draw f1:farm; p1 p2 p3:site; n1 n2 n3:food
tell A~ <tiny> stray puppy [followed|ran after] them. "[It needs a home|We must look after it]," said {A}. [First they
  made it a bed|It was given a bed] in the {p1}, but it [howled all night|kept running away]. {B} [wanted|tried] to
  feed it {n1}, {C} {n2}. [It only sniffed at that.|It turned its head away.]
end So {A} [offered|gave] it {n3} and took it to the {p2}. There it [slept soundly|wagged its tail]. [The {p3} was
  much too cold, after all.|{C} had wanted to try the {p3}.]
ask place: Where did the puppy sleep in the end? It slept in the > p2 p1 p3
ask food: What had {B} offered it? {B} had offered it > n1 n2 n3
ask food: What had {C} offered it? {C} had offered it > n2 n1 n3
end They carried it to the {p2}, but [it was too dark there|it only whined there]. In the {p3} it [shivered|was
  afraid]. In the end it [trotted back|went back] to its very first bed[ and ate some {n3}|, and {A} fed it {n3}].
ask place: Where did the puppy sleep in the end? It slept in the > p1 p2 p3
ask food: What did the puppy eat at last? At last it ate > n3 n1 n2
end [In the {p2}|They tried the {p2}, where] it [chewed everything|barked without end], so {C} took it to the {p3}[,
  and it liked that|]. There it ate {n3} and [fell asleep|was content].
ask place: Where did the puppy sleep in the end? It slept in the > p3 p1 p2
ask food: What did the puppy like to eat? It liked to eat > n3 n1 n2
ask place: Where had its first bed been? That bed had been in the > p1 p2 p3
"""
