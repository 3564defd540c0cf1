import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ArchiveUnsafePath
from app.inputs.paths import check_path, is_litter, same_name_key

REFUSED = """
../x|..|a/../x|a/./../../x|a/..|./../x|/etc/x|//x|/|C:\\x|C:x|c:/x|..\\x|a\\b|\\\\host\\x|a//b|a/./b|a/.|
a\0b|a\r\nb|a\tb|a\x1bb|a\x7fb|a\u2028b|a\x85b|a./b|a /b|a.|a |b/.. |con|CON|nul.png|a/aux|com1.jpg|LPT9|
file:stream|a/b:c|a..|.../x| |. /x
""".replace("\n", "")


@pytest.mark.parametrize("path", [*REFUSED.split("|"), "x" * 256, "a/" * 600 + "x", "\ud800"])
def test_refuses(path: str) -> None:
    with pytest.raises(ArchiveUnsafePath):
        check_path(path)


@pytest.mark.parametrize(
    ("path", "checked"),
    [
        ("a.png", "a.png"),
        ("./a/b c.png", "a/b c.png"),
        ("././a", "a"),
        ("a/b/", "a/b"),
        ("./", ""),
        ("ä/é.png", "ä/é.png"),
        (".hidden/x", ".hidden/x"),
        ("a..b/c", "a..b/c"),
        ("console/x", "console/x"),
    ],
)
def test_keeps_ordinary_paths(path: str, checked: str) -> None:
    assert check_path(path) == checked


@given(st.text(st.sampled_from("ab./\\:\0 ~é"), max_size=12))
def test_what_passes_stays_below_its_root(path: str) -> None:
    try:
        checked = check_path(path)
    except ArchiveUnsafePath:
        return
    parts = checked.split("/")
    assert not checked.startswith("/")
    assert checked == "" or all(part not in ("", ".", "..") for part in parts)
    assert check_path(checked or "./") == checked


@given(st.text(max_size=30))
def test_any_text_is_refused_on_one_printable_line(path: str) -> None:
    with pytest.raises(ArchiveUnsafePath) as caught:
        check_path(f"../{path}")
    assert caught.value.detail.isprintable()


def test_litter_and_equal_names() -> None:
    assert all(map(is_litter, ["__MACOSX/a.png", "d/._a.png", ".DS_Store", "d/Thumbs.db"]))
    assert not any(map(is_litter, ["a.png", "d/DS_Store.png", "x/__MACOSX.png"]))
    assert same_name_key("e\u0301") == same_name_key("\u00e9") != same_name_key("E\u0301")
