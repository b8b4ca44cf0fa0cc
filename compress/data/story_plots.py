"""Plots of the built-in stories around the house, the garden and the school (notation: `story_scenes`)."""

PLOTS = """
plot tidy
cast AB
draw p1 p2 p3:store; t1 t2 t3:toy; G:elder
tell The floor was covered with toys. "[Please tidy up|You must clear this away|I can hardly open the door]," said {G}
  [<soft>|]. {A} put the {t1} in the {p1} and [dropped|threw|pushed] the {t2} [into|in] the {p2}. {B}
  [found|discovered] the {t3} under a [rug|pillow|cushion] and [laid|placed] it in the {p3}.
end [But the {p2} was too full|The {p2} could not be shut any more], so {A} moved the {t2} to the {p3}. {G} looked
  [into|in] the {p1}, [then the {p3} and the {p2}|then the {p2}], and [nodded|was satisfied].
ask container: Where was the {t2} in the end? The {t2} was in the > p3 p1 p2
ask container: Where was the {t1} in the end? The {t1} was in the > p1 p2 p3
ask thing: Which toy did {A} move? {A} moved the > t2 t1 t3
end Then {B} [needed|wanted] the {p3} for [washing|some apples|something else]. {BHe} took the {t3} out and put it in
  the {p1}. [Now the {p3} was empty again.|The {p2} stayed as it was.|]
ask container: Where was the {t3} at last? The {t3} was in the > p1 p3 p2
ask thing: What lay in the {p2}? In the {p2} lay the > t2 t1 t3
ask container: Where was the {t2}? The {t2} was in the > p2 p1 p3
end "[Done|Ready|Finished]!" <cried> {A}. [But|However,] {B} took the {t1} out of the {p1} once more, [played with
  it|looked at it <slow>] and [hid|left] it in the {p2}. [Nobody looked into the {p3}.|The {p1} was now as good as
  new.|]
ask container: Where did {G} find the {t1} later? It was in the > p2 p1 p3
ask thing: What lay in the {p3}? In the {p3} lay the > t3 t1 t2

plot hiding
cast ABCD
draw p1 p2 p3 p4:inside|outside
tell They played hide and seek. {A} [covered {Ahis} eyes and counted to [twenty|fifty]|had to count]. {B}
  [crept|slipped|tiptoed] behind the {p1}, {C} [crouched|squeezed in|knelt] behind the {p2}, and {D} [hid|lay down]
  behind the {p3}. "[Ready or not, here I come|I am coming]!" <cried> {A}.
end {AHe} looked behind the {p4} first, but [nobody|no one] was there. [Then|Next] {Ahe} [heard|noticed] a~
  [sneeze|giggle|cough] from behind the {p2}. "[I see you|Found you]!" [After that|A minute later] {Ahe} found {D},
  and {B} was the last.
ask doer: Who [was found first|sneezed or giggled and was found first]? The first one found was > C B D
ask doer: Who was found last? The last one found was > B C D
ask place: Where had {D} been hiding? {D} had been behind the > p3 p1 p2
end While {A} was still counting, {B} changed {Bhis} mind and [ran|sneaked] behind the {p4}[, where it was darker|].
  {A} looked behind the {p1}, but [it was no use|there was only dust]. {AHe} found {C} and {D} [easily|soon], but not
  {B}.
ask place: Where was {B} hiding then? {B} was behind the > p4 p1 p2 p3
ask doer: Who won the game? The winner was > B C D
ask place: Where did {A} find {C}? {C} was behind the > p2 p1 p3 p4

plot present
cast ABC
draw t1 t2 t3:gift; G:elder
tell It was the birthday of {G}, and [everybody|each of them] had [prepared|brought] a present. {A} had a~ {t1} [in
  shiny paper| in a box|wrapped in tissue], {B} [carried|brought] a~ <lovely> {t2}, and {C} had [saved up for|made] a~
  {t3}.
end {G} [opened|unwrapped] the {t2} first [and said, "How <lovely>!"|and clapped], [and then|then] the {t1}. But when
  {Ghe} saw the {t3}, there were tears [of joy|] in {Ghis} eyes. "[This is just what I wished for|I have always wanted
  one]!"
ask doer: Whose present was opened first? It came from > B A C
ask doer: Whose present did {G} like best? It came from > C A B
ask thing: Which present brought tears? It was the > t3 t1 t2
end [But oh dear!|What a surprise!] The labels had [fallen off|come loose], so {G} thanked {C} for the {t1} and {A}
  for the {t3}. Everybody <laughed> until {A} explained [it all|the mistake]. The {t2} got the [best
  place|place of honour] [on the shelf|by the window].
ask doer: Who had really brought the {t1}? It came from > A B C
ask doer: Who had really brought the {t3}? It came from > C A B
ask thing: Which present got the best place? It was the > t2 t1 t3

plot swap
cast ABC
draw t1 t2 t3:toy
tell {A} had a~ <lovely> {t1}, {B} had a~ {t2}, and {C} had [brought|found] a~ <old> {t3}. "[Shall we swap|May I swap
  with you|Shall we trade]?" [asked|said] {A}. {B} [agreed|nodded], so {A} got the {t2} and {B} the {t1}.
end [After a while|A little later] {B} [swapped|traded] with {C} as well. [Now {C} played with the {t1}, and {B} had
  the {t3}.|That is how the {t1} came to {C}.] {A} [would not give away the {t2}|was content].
ask owner: Who had the {t1} then? The owner of the {t1} was > C A B
ask owner: Who had the {t3} then? The owner of the {t3} was > B C A
ask thing: What did {A} have [in the end|then]? {A} had the > t2 t1 t3
end Then {A} and {C} swapped too. {A} [took|was given] the {t3}, and {C} [walked off with|got] the {t2}. {B}
  [watched|did not mind], for {Bhe} [only wanted|liked] the {t1}.
ask owner: Who had the {t2} at the end? The owner of the {t2} was > C A B
ask owner: Who had the {t1} at the end? The owner of the {t1} was > B A C
ask thing: What did {A} have at the end? {A} had the > t3 t1 t2
end But {A} [soon missed|still dreamed of] the {t1}. "[I am sorry|Please], can we change back?" {B} [smiled|laughed] and
  gave it back, and so {Bhe} had the {t2} again. {C} [hugged|held on to] the {t3}.
ask owner: Who had the {t1} now? The owner of the {t1} was > A B C
ask owner: Who had the {t2} now? The owner of the {t2} was > B A C
ask thing: What did {B} have now? {B} had the > t2 t1 t3

plot painting
cast AB
draw t1 t2:build; k1 k2 k3 k4:paint
tell They wanted to paint the <old> {t1} and the {t2}. {A} [stirred|opened] a tin of {k1} paint and [began
  with|brushed it on] the {t1}. {B} painted the {t2} {k2}. [Soon|Before long] there were drops on {Bhis}
  [nose|elbow|shoes].
end [When it was dry|Later], {A} [frowned|shook {Ahis} head]. "{k1} does not suit it." So {Ahe} painted the {t1}
  again, and this time it was {k3}. [The {k1} brush went into the water.|"What about {k4}?" asked {B}, but it was too
  late.|]
ask colour: What colour was the {t1} at the end? The {t1} was > k3 k1 k2
ask colour: What colour was the {t2}? The {t2} was > k2 k1 k3
ask colour: What was the first colour of the {t1}? At first it was > k1 k2 k3
end [In the night|During lunch] it rained, and the {k2} paint ran off. {B} [sighed|groaned] and [began again|started
  over], with {k3} this time. The {t1} had stood [under a roof|indoors] and was [still fine|not harmed].
ask colour: What colour was the {t2} at the end? The {t2} was > k3 k2 k1
ask colour: What colour was the {t1} at the end? The {t1} was > k1 k2 k3
end "Now the [wheels|edges|corners|handles]," said {B}, and [dipped|put] {Bhis} brush into the {k3} pot. "Not {k4}?"
  asked {A}. "No, {k3} is [jollier|nicer|brighter]." [They stepped back and admired their work.|They were <glad>.]
ask colour: What colour was the {t1}? The {t1} was > k1 k2 k3
ask colour: What colour was the {t2}? The {t2} was > k2 k1 k3

plot cake
cast ABC
draw n1 n2 n3 n4:need; G:elder
tell They wanted to bake a cake for {G}. [But the cupboard was nearly empty!|But what a pity, so much was missing!]
  {A} [went|ran] to fetch {n1}, {B} [borrowed|asked a neighbour for] {n2}, and {C} [looked everywhere for|came back
  with] {n3}. They [mixed|stirred] everything in a bowl [until it was smooth|with a wooden spoon].
end "[Taste it|Try some]!" said {A}. {B} [pulled a face|coughed]. [There was far too much {n3} in it!|Somebody had put
  in all the {n3}!] [They began again from the beginning.|So they made a second one.] It [rose high in its tin|came
  out <lovely>].
ask need: What was there too much of? There was too much > n3 n1 n2
ask doer: Who had fetched the {n1}? It had been > A B C
ask doer: Who had got the {n2}? It had been > B A C
end The cake [went into the oven|began to bake], and the whole house smelled [good|sweet]. Then {C} [jumped up|turned
  pale]. "We forgot the {n4}!" [But it was good all the same.|Nobody noticed when they ate it.|Still, every crumb was
  eaten.]
ask need: What had they forgotten? They had forgotten the > n4 n1 n2 n3
ask doer: Who had brought the {n3}? It had been > C A B
ask need: What had {B} brought? {B} had brought > n2 n1 n3

plot vase
cast ABC
draw f1:farm; G:elder; p1 p2 p3:room
tell [Crash!|Bang!|There was a crash.] The <big> vase lay [in pieces|broken] on the floor. {G} came in. "Who
  was that?" [{A} had been in the {p1}, and {B} had [played|been reading] in the {p2}|{B} had been [asleep|reading] in
  the {p2}, and {A} had been busy in the {p1}]. {C} had just come from the {p3}.
end They saw [muddy|wet|small] paw prints [on the window sill|on the carpet], but the {f1} was [outside|asleep in the
  yard]. [Slowly,|At last] {A} [raised a hand|stepped forward]. "It was me," {Ahe} <said>. "I [ran in|threw a ball],
  and then I ran back." {G} [hugged {Ahim}|was not angry]. {B} and {C} [breathed again|looked at each other].
ask doer: Who had broken the vase? It had been > A B C
ask place: Where had {B} been? {B} had been in the > p2 p1 p3
end Everybody [looked at|thought of] {A} first, but {B} [blushed|went red]. "I [bumped into|knocked] it on my way to
  the {p2}," {Bhe} <said>. "[Thank you for telling the truth|That was brave]," said {G}, and [{C} fetched the glue|{A}
  helped to sweep].
ask doer: Who had broken the vase? It had been > B A C
ask place: Where had {A} been? {A} had been in the > p1 p2 p3
ask place: Where had {C} come from? {C} had come from the > p3 p1 p2
end {A} and {B} both [said no|shook their heads]. Then {C} began to cry. "My [elbow|bag] touched it," {Che}
  [sobbed|whispered]. [Together {A} and {B} picked up the pieces.|{A} gave {Chim} a handkerchief, and {B} found the
  glue.]
ask doer: Who had broken the vase? It had been > C A B
ask place: Where had {A} been? {A} had been in the > p1 p2 p3

plot band
cast ABC
draw m1 m2 m3:music
tell "Let us [start|be|form] a band!" <cried> {A}. {AHe} took the {m1}, {B} [chose|tried] the {m2}, and {C}
  [wanted|picked up] the {m3}. They played [as loud as they could|until the windows shook], and it [was|sounded]
  [awful|dreadful|terrible].
end "[Wait|Stop]!" said {B}. "I [can|have learned to] play the {m1}." So {A} and {B} changed. {C} kept the {m3}. [Now
  there was real music.|Now even the neighbours clapped.]
ask owner: Who played the {m1} in the end? It was played by > B A C
ask thing: What did {A} play in the end? {A} played the > m2 m1 m3
ask owner: Who played the {m3}? It was played by > C A B
end {C} [could not|did not know how to] play the {m3} and gave it to {A}. {A} [passed|handed] the {m1} to {B}, and {B}
  [let {C} have|gave {C}] the {m2}. [That was much better.|Soon people danced in the street.]
ask owner: Who played the {m3} in the end? It was played by > A C B
ask owner: Who played the {m1} in the end? It was played by > B A C
ask thing: What did {C} play in the end? {C} played the > m2 m1 m3

plot belief
cast AB
draw t1:thing; p1 p2 p3:store; G:elder
tell {A} [put|hid|placed] {Ahis} <lovely> {t1} in the {p1} and went [outside|to the shop|upstairs]. [While {Ahe} was
  away|A moment later], {B} took the {t1} out [to look at it|to clean it] and put it in the {p2}[ by mistake|]. Then
  {B} [left too|went home].
end {G} needed the {p2} and moved everything from it to the {p3}. When {A} came back, {Ahe} [knew nothing of all
  this|had no idea] and went to fetch {Ahis} treasure.
ask container: Where was the {t1} really? The {t1} was in the > p3 p2 p1
ask belief: Where did {A} look first? {A} looked in the > p1 p2 p3
ask container: Where had {B} put the {t1}? {B} had put it in the > p2 p1 p3
end The {p3} [stood open|was there too], but it [was|stayed] empty. When {A} came back, [nobody had told {Ahim}
  anything|no one was there to tell {Ahim}]. {AHe} [wanted|needed] the {t1} now.
ask belief: Where did {A} look first? {A} looked in the > p1 p2 p3
ask container: Where was the {t1} really? The {t1} was in the > p2 p1 p3
end "[I have put it in the {p2}|It is in the {p2} now]," {B} told {A} on the stairs. But {G} had already
  [emptied|cleared] it, and everything was in the {p3}. Nobody told {A} that.
ask belief: Where did {A} look first? {A} looked in the > p2 p1 p3
ask container: Where was the {t1} really? The {t1} was in the > p3 p2 p1
end [But {A} had watched through the window|{A}, however, had seen everything through the keyhole]. {AHe}
  [smiled|laughed], looked neither in the {p1} nor in the {p3}, and had {Ahis} {t1} again.
ask container: Where did {A} find the {t1}? {A} found it in the > p2 p1 p3
ask container: Where had the {t1} been at first? At first it was in the > p1 p2 p3

plot quarrel
cast AB
draw t1:toy; f1 f2 f3:rest; l1 l2:low; h1:glad
tell Both of them wanted the {t1}. "[It is mine|I had it first|Give it to me]!" <cried> {A}. They pulled [so hard that
  it broke|until it came apart]. {A} [was|felt] {l1}, and {B} [was|felt] {l2}. [For a while they did not speak.|They
  sat down in different corners.]
end Then {B} [brought|fetched] some [glue|tape|string] and [mended it|fixed it]. {A} [looked|felt] {h1}, and {B}, who
  had worked [hard|for an hour], was {f2}.
ask feeling: How did {A} feel at the end? {A} felt > h1 l1 l2 f2
ask feeling: How did {B} feel at the end? {B} felt > f2 h1 l1 l2
ask feeling: How did {A} feel after the quarrel? {A} felt > l1 l2 h1 f2
end "I am sorry," said {A} [<soft>|at last], and [held out a hand|offered {Bhim} half of a bun]. [At once|Then] {B}
  was {h1}. {A} was only {f3} now, and no longer {l1}.
ask feeling: How did {A} feel at the end? {A} felt > f3 l1 l2 h1
ask feeling: How did {B} feel at first? {B} felt > l2 l1 h1 f3
ask feeling: How did {B} feel at the end? {B} felt > h1 l2 l1 f3

plot sick
cast ABC
draw t1:gift; s1:soupy; f1:farm; l1 l2:low; h1:glad
tell {A} [had a cold|was ill] and had to stay in bed. {AHe} felt {l1}. {B} [came|dropped by] with a~ {t1}, but {A}
  [was too tired for it|only sighed]. {C} [brought|carried in] a bowl of {s1}, [but {A} was not hungry|and {A} took a
  spoonful].
end Then the {f1} [<went> in|put its head through the window] with an old slipper [on its head|in its mouth]. {A}
  [laughed|giggled] [until the bed shook|for the first time that day] and was {h1} at last. {B}, though, was a little
  {l2}.
ask feeling: How did {A} feel at the end? {A} felt > h1 l1 l2
ask feeling: How did {B} feel? {B} felt > l2 l1 h1
ask doer: Who had brought the {s1}? It had been > C B A
end [In the evening|At five o'clock] {C} [told|read] a story about a~ {f1} [that could fly|with golden shoes]. [That
  helped|It worked]: {A} was {h1} at last. But when {C} had to leave, {B} was {l2}[, for {Bhe} wanted to hear more|].
ask feeling: How did {A} feel before the story? {A} felt > l1 h1 l2
ask feeling: How did {A} feel after the story? {A} felt > h1 l1 l2
ask doer: Who had brought the {t1}? It had been > B C A

plot boxes
cast AB
draw k1 k2 k3:colour; t1 t2 t3:loot; p1:room
tell In the {p1} stood three [small|dusty|locked] chests: one was {k1}, one {k2} and one {k3}. [With a bent wire|With
  a~ <old> key] {A} opened the {k1} one and [found|took out] a~ {t1}. [Then {B} tried the {k2} one, and there lay a~
  {t2}.|{B} found a~ {t2} in the {k2} one.] In the {k3} one there was a~ {t3}[, wrapped in silk|, and nothing else|].
end They [put|laid] the {t1} [back|back where it had been] but exchanged the other two, [as a joke|so that nobody
  would know].
ask thing: What lay in the {k2} chest now? It held the > t3 t2 t1
ask thing: What lay in the {k3} chest now? It held the > t2 t3 t1
ask colour: In which chest was the {t1}? That chest was > k1 k2 k3
end "[Which one shall we keep|Which of them shall we take]?" asked {A}. {B} [remembered|knew] that {Bhis} aunt had
  lost a~ {t2}, so [they took it to her|that is the one they took along]. The other things stayed.
ask colour: What colour was the chest that was now empty? That chest was > k2 k1 k3
ask thing: What lay in the {k1} chest? It held the > t1 t2 t3
ask thing: What did they take along? They took the > t2 t1 t3

plot lost_home
cast ABC
draw t1:thing; r1 r2 r3 r4:room
tell "[Where is my {t1}?|Has anyone seen my {t1}?|I have lost my {t1}!]" <cried> {A}. {AHe} [searched|looked in] the
  {r1}, [and {B} searched|while {B} looked in] the {r2}. [Under the carpet there was only dust.|They turned every
  cushion over.] {C} [went|hurried] to the {r3}.
end "[Here it is|I have it|Found it]!" <cried> {C}. {A} [thanked {Chim}|jumped for joy], [and later {Ahe} left|but
  soon {Ahe} forgot] it in the {r2}.
ask place: Where had the {t1} been found? It was found in the > r3 r1 r2
ask place: Where was the {t1} later? Later it was in the > r2 r1 r3
ask doer: Who had found the {t1}? It had been > C A B
end [A shout came|They heard a shout] from {B}, who held it up. [{C} came back from the {r3} with cobwebs in {Chis}
  hair.|{C} stopped looking.] {A} took the {t1} to the {r4}, [where it belonged|to be safe].
ask doer: Who had found the {t1}? It had been > B A C
ask place: Where had the {t1} been found? It was found in the > r2 r1 r3
ask place: Where was the {t1} at the end? At the end it was in the > r4 r1 r2 r3

plot show
cast ABC child
draw h1:glad; l1:low; x1:fear; f2:rest
tell There was a talent show at school. {A} [wanted to juggle|was going to do magic tricks], {B} [had practised|had
  learned] a poem, and {C} was going to [dance|sing]. [Behind the curtain|Before it began], {A} was {x1}, {B} was
  {f2}, and {C} [felt|was] {l1}.
end {A} [dropped everything|forgot what came next], but {Ahe} [bowed|made a joke], and [everybody|the whole hall]
  laughed. {B} [won the prize|got the medal]. Afterwards {A} was {h1}, [prize or no prize|although there was no prize
  for {Ahim}].
ask feeling: How did {A} feel afterwards? {A} felt > h1 x1 f2 l1
ask feeling: How did {A} feel before the show? {A} felt > x1 h1 f2 l1
ask doer: Who won the prize? The prize went to > B A C
end The prize [went|was given] to {C}, whose [knees had trembled|face was red]. {C} was {h1}. {B} [clapped|cheered]
  [longest|loudest], and {A} was not {x1} any more but {f2}, [just as|as] {B} had been.
ask feeling: How did {C} feel in the end? {C} felt > h1 l1 x1 f2
ask feeling: How did {A} feel in the end? {A} felt > f2 x1 l1 h1
ask doer: Who won the prize? The prize went to > C A B

plot book
cast ABC
draw d1 d2 d3 d4:day; t1:gift
tell {A} had a new {t1}, and [everybody|all the others] wanted to borrow it. "[One after the other|You may each have a
  day]," said {A}. So {B} was to have it on {d1}, and {C} on {d2}. {A} kept it for {d3}.
end But on {d1} {B} had [a toothache|visitors], so {Bhe} and {C} changed days. [That suited {C} well.|{A} had to write
  it down.]
ask day: On which day did {B} have the {t1}? {B} had it on > d2 d1 d3
ask day: On which day did {C} have the {t1}? {C} had it on > d1 d2 d3
ask owner: Who had the {t1} on {d1}? The one who had it was > C A B
end [But {C} was away|Then {C} was ill] and could not come. "[Come|Take it] on {d4} instead," said {A}. {B} was
  [pleased|glad] to keep it for two days, {d1} and {d2}.
ask day: On which day could {C} have the {t1}? {C} had it on > d4 d1 d2 d3
ask owner: Who had the {t1} on {d2}? The one who had it was > B A C
ask owner: Who was to have it on {d3}? The one to have it was > A B C
end Everything went [to plan|as they had said], and [nothing was broken|nobody quarrelled]. On {d4} {A} lent it to {B}
  [a second time|once more].
ask day: On which day did {C} have the {t1}? {C} had it on > d2 d1 d3 d4
ask owner: Who had the {t1} on {d4}? The one who had it was > B A C
ask day: On which day did {A} keep it? {A} kept it on > d3 d1 d2 d4
"""
