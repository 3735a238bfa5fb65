"""The closed classes of English, written out: which words are function words.

A list of our own making (about 300 written forms, contractions and their chat spellings included). Closed classes are
those of Universal Dependencies (ADP, AUX, CCONJ, SCONJ, DET, PART, PRON) plus the adverbs that only point or join
(here, then, therefore, …). A form that is mostly a content word ("might" the noun, "like" the verb is a coin flip) is
decided once, here; that is what "label from a deterministic rule" costs, and it is stated instead of hidden.
"""

from __future__ import annotations

_DETERMINERS = """a an the this that these those each every either neither some any no all both half such what which
whose whatever whichever another other others much many more most few fewer fewest little less least several enough"""

_PRONOUNS = """i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its
itself we us our ours ourselves they them their theirs themselves themself thou thee thy thine ye who whom whoever
whomever one ones oneself none someone somebody something anyone anybody anything everyone everybody everything
nobody nothing somewhat u ur ya"""

_PREPOSITIONS = """about above across after against along alongside amid amidst among amongst around as at atop before
behind below beneath beside besides between beyond by concerning despite down during except for from in inside into
like near of off on onto out outside over past per regarding since than through throughout till to toward towards
under underneath unlike until unto up upon versus via with within without"""

_CONJUNCTIONS = """and but or nor yet so if because although though unless while whereas whether lest once wherein
whereby whereof whereupon provided cuz cos"""

_AUXILIARIES = """am is are was were be been being have has had having do does did doing done will would shall should
can could may might must ought cannot gonna gotta wanna"""

_PARTICLES_AND_POINTERS = """not never there here then thus hence therefore however moreover furthermore nevertheless
otherwise instead too also very just only even ever still again already now quite rather almost perhaps maybe when
where why how whenever wherever however everywhere somewhere anywhere nowhere therein thereof thereby thereto
hereby herein hitherto thereafter away back"""

_CONTRACTIONS = """i'm i've i'd i'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'd it'll
we're we've we'd we'll they're they've they'd they'll that's that'd that'll there's there'll here's who's who'd who'll
what's what're where's when's how's why's let's isn't aren't wasn't weren't haven't hasn't hadn't don't doesn't didn't
won't wouldn't shan't shouldn't can't couldn't mayn't mightn't mustn't needn't ain't y'all 'tis 'twas"""

# As typed in chat. "ill", "shell", "well", "wed", "were", "hell", "lets", "id" stay out or keep their dictionary class.
_BARE_CONTRACTIONS = """im ive youre youve youll hes shes theyre theyve weve thats theres whats wheres hows isnt arent
wasnt werent havent hasnt hadnt dont doesnt didnt wont wouldnt shouldnt cant couldnt aint yall dunno"""

FUNCTION_WORDS: frozenset[str] = frozenset(
    " ".join(
        (
            _DETERMINERS,
            _PRONOUNS,
            _PREPOSITIONS,
            _CONJUNCTIONS,
            _AUXILIARIES,
            _PARTICLES_AND_POINTERS,
            _CONTRACTIONS,
            _BARE_CONTRACTIONS,
        )
    ).split()
)

# Neither: interjections name nothing and join nothing, and spelled numbers are closed in form and open in number.
_UNCLASSED = """oh ah aw aww hey hi hello hiya bye goodbye ok okay k yes yeah yea yep yup nope nah lol lmao haha hahaha hehe
    hmm hm mm mmm um uh uhh huh wow whoa ooh ouch oops ugh yay please thanks omg btw eh
    zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion"""
UNCLASSED_WORDS: frozenset[str] = frozenset(_UNCLASSED.split())

# After these a full stop does not end a sentence; a single letter never ends one either.
_ABBREVIATIONS = """mr mrs ms dr st sr jr rev hon gen col capt lt sgt maj gov pres prof rep sen messrs mme no nos vol vols
    fig figs art sec ch pp ed eds vs etc eg ie cf al inc ltd co corp dept est approx jan feb mar apr jun jul aug sept sep oct
    nov dec mt ft u.s e.g i.e a.m p.m"""
ABBREVIATIONS: frozenset[str] = frozenset(_ABBREVIATIONS.split())

# A clitic is part of no label: "teacher's" is labelled on "teacher".
CLITICS = ("'s", "'ll", "'ve", "'re", "'d", "'m")
