"""Names as Markdown and HTML: text, never markup."""

import pytest

from ardor.storage.markdown import block, code, inline


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/variance_gap (best)", "runs/variance_gap (best)"),
        ("p < 0.0001 & 3 > 2", "p < 0.0001 & 3 > 2"),
        ("[+1.36, +10.30], 8/255", "\\[+1.36, +10.30], 8/255"),
        ("a\n\n# heading", "a # heading"),
        ("# heading", "\\# heading"),
        ("- item", "\\- item"),
        ("a|b", "a\\|b"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("&lt;b&gt; &#60;", "&amp;lt;b&amp;gt; &amp;#60;"),
        ("[a](javascript:x) ![b](y)", "\\[a]\\(javascript:x) ![b]\\(y)"),
        ("`code`", "\\`code\\`"),
        ("**bold** _it_ a_b ~~c~~", "\\*\\*bold\\*\\* \\_it\\_ a_b \\~~c\\~~"),
        ("a\\", "a\\\\"),
        ("\\[a](b)", "\\\\[a]\\(b)"),
        ("C:\\data", "C:\\data"),
        ("https://evil www.evil", "https\\://evil www\\.evil"),
        ("a\x1b[31m\u202eb", "ab"),
    ],
)
def test_a_name_in_a_line_is_text(text, expected):
    assert inline(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a\n```", "```` a ``` ````")]
)
def test_a_name_as_code_has_a_longer_fence_than_its_backticks(text, expected):
    assert code(text) == expected


def test_a_block_does_not_end_before_its_text():
    assert block("a: |\n  ```\n  # heading", "yaml") == "````yaml\na: |\n  ```\n  # heading\n````"
