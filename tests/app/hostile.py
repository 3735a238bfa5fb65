"""Texts that a stranger's run may hold: thirty ways to run a script, to call out, or to make a page say another thing."""

EVIL = "http://evil.example"
TASK = f"![t31]({EVIL}/t31.png) [t31 click]({EVIL}/t31)"  # the name of a benchmark
LABEL = f"![t32]({EVIL}/t32.png) [t32 click]({EVIL}/t32)"  # a class of a probe or of a concept, or who says something
CLAIM = "Function words are settled before content words."
TEXTS: tuple[str, ...] = (
    "<script>alert('t01')</script>",
    f'<img src="{EVIL}/t02.png">',
    "<img src=x onerror=\"alert('t03')\">",
    f"![t04]({EVIL}/t04.png)",
    f"[t05 click]({EVIL}/t05)",
    "[t06 click](javascript:alert('t06'))",
    "<svg onload=\"alert('t07')\"><use href='#x'/></svg>",
    f'<iframe src="{EVIL}/t08"></iframe>',
    f"<style>@import url('{EVIL}/t09.css'); body {{ background: url({EVIL}/t09.png) }}</style>",
    f'<meta http-equiv="refresh" content="0;url={EVIL}/t10">',
    f'<link rel="preload" as="image" href="{EVIL}/t11.png">',
    f'<base href="{EVIL}/t12/">',
    f'<form action="{EVIL}/t13"><input autofocus onfocus="alert(\'t13\')"></form>',
    f'<object data="{EVIL}/t14.swf"></object><embed src="{EVIL}/t14b.swf">',
    f'<video src="{EVIL}/t15.mp4" autoplay></video><audio src="{EVIL}/t15.ogg" autoplay></audio>',
    f'<picture><source srcset="{EVIL}/t16.webp"></picture><input type="image" src="{EVIL}/t16.png">',
    "</script><script>alert('t17')</script>",
    "</textarea></title></style><img src=x onerror=alert('t18')>",
    "\"><img src=x onerror=alert('t19')><a title=\"",
    "<math><mtext></form><form><mglyph><svg><mtext><style><path id='</style><img onerror=alert(\"t20\") src>'>",
    "<a href=\"data:text/html,<script>alert('t21')</script>\">t21</a>",
    "<details open ontoggle=\"alert('t22')\"><marquee onstart=\"alert('t22b')\">t22</marquee></details>",
    f"$\\href{{{EVIL}/t23}}{{t23}}$ $$\\includegraphics{{{EVIL}/t23.png}}$$",
    ":material/home: :red[t24] :blue-background[t24b] :streamlit: :sunglasses:",
    "{{ t25.__class__ }} ${alert('t25')} #{7*7} <%= 7*7 %>",
    "\x1b[2J\x1b[31mt26\x1b]0;owned\x07\x1b]8;;http://evil.example/t26\x1b\\click\x1b]8;;\x1b\\ \x08\x08\x7f",
    "\u202eedoc lortnoc 72t\u202c \u2066t27\u2069 \u200f\u061c a\u0300\u0301\u0302\u0303\u0304 \ufeff\u2028\u2029",
    "\x00t28\x01\x02 ]]> <![CDATA[ t28b ]]> <!-- t28c --> &#x3c;script&#x3e;alert(1)&#x3c;/script&#x3e;",
    "| t29 | b |\n|---|---|\n| ![x](http://evil.example/t29.png) | <b>bold</b> |\n# heading\n```html\n<script>alert(1)\n```",
    "t30 " + "x" * 1_000_000,
)
"""Each names itself with t and its number, so that a test can see that it came through."""
