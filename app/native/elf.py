"""Link an ELF object of x86-64 into one run of bytes that runs wherever it is put, and needs at most named functions."""

import struct
from collections.abc import Collection
from dataclasses import dataclass

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")

_RELOCATABLE, _X86_64 = 1, 62
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_ALLOCATED, _WRITABLE = 2, 1
#: The distance to the target in 32 bits: the only kinds that are the same wherever the code is put.
_RELATIVE = {2: "PC32", 4: "PLT32"}
#: `jmp *2(%rip)`: to the address that stands behind it, at a multiple of 8.
_JUMP, _JUMP_BYTES = b"\xff\x25\x02\x00\x00\x00\xcc\xcc", 8


class LinkError(Exception):
    """The object needs more than this linker does, such as a function from outside."""


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int


@dataclass(frozen=True)
class Linked:
    """Code, and where in it: the function that was asked for, and room for the addresses of functions from outside."""

    code: bytes
    entry: int
    outside: dict[str, int]


def link_object(content: bytes, entry: str, outside: Collection[str] = ()) -> Linked:
    """Return the code of the function named entry, which may call the functions named `outside`. Raises LinkError.

    All sections that are loaded are laid out one after the other. See the System V ABI, AMD64 supplement, chapter 4.
    """
    sections = _parse_sections(content)
    image, places = _lay_out(content, sections)
    jumps: dict[str, int] = {}
    for section in sections:
        if section.kind == _RELA and section.info in places:
            symbols = _parse_symbols(content, sections, section.link)
            wanted = {symbol.name for symbol in symbols if not symbol.section} & set(outside) - jumps.keys()
            jumps |= {name: _add_jump(image) for name in sorted(wanted)}
            addresses = _addresses(symbols, places, jumps)
            _relocate(image, _entries(content, section, _RELOCATION), places[section.info], addresses)
    symbols = [
        symbol
        for number, section in enumerate(sections)
        if section.kind == _SYMTAB
        for symbol in _parse_symbols(content, sections, number)
    ]
    found = [places[symbol.section] + symbol.value for symbol in symbols if symbol.name == entry and symbol.section in places]
    if len(found) != 1:
        raise LinkError(f"the object has {len(found)} functions named {entry}")
    return Linked(bytes(image), found[0], {name: jump + _JUMP_BYTES for name, jump in jumps.items()})


def _add_jump(image: bytearray) -> int:
    """Append a jump to an address that is still to come; return where it is."""
    image.extend(bytes(-len(image) % _JUMP_BYTES))
    image.extend(_JUMP + bytes(8))
    return len(image) - len(_JUMP) - 8


def _parse_sections(content: bytes) -> list[_Section]:
    header = _HEADER.unpack_from(content)
    if header[0][:6] != b"\x7fELF\x02\x01" or header[1:3] != (_RELOCATABLE, _X86_64):
        raise LinkError("not an ELF64 object of x86-64")
    table, size, count, names = header[6], header[11], header[12], header[13]
    rows = [_SECTION.unpack_from(content, table + number * size) for number in range(count)]
    strings = rows[names][4]
    return [_Section(_string(content, strings + row[0]), *row[1:3], *row[4:9]) for row in rows]


def _string(content: bytes, start: int) -> str:
    return content[start : content.index(b"\0", start)].decode()


def _lay_out(content: bytes, sections: list[_Section]) -> tuple[bytearray, dict[int, int]]:
    image, places = bytearray(), {}
    for number, section in enumerate(sections):
        if not section.flags & _ALLOCATED or section.name.startswith(".eh_frame"):
            continue  # nothing is thrown, so nobody unwinds
        if section.flags & _WRITABLE and section.size:
            raise LinkError(f"{section.name} is written to")
        image.extend(bytes(-len(image) % max(section.alignment, 1)))
        places[number] = len(image)
        is_stored = section.kind != _NOBITS
        image.extend(content[section.offset : section.offset + section.size] if is_stored else bytes(section.size))
    return image, places


def _entries(content: bytes, section: _Section, kind: struct.Struct) -> list[tuple[int, ...]]:
    return list(kind.iter_unpack(content[section.offset : section.offset + section.size]))


def _parse_symbols(content: bytes, sections: list[_Section], number: int) -> list[_Symbol]:
    strings = sections[sections[number].link].offset
    rows = _entries(content, sections[number], _SYMBOL)
    return [_Symbol(_string(content, strings + row[0]), row[3], row[4]) for row in rows]


def _addresses(symbols: list[_Symbol], places: dict[int, int], jumps: dict[str, int]) -> list[int | str]:
    """Return where in the image each symbol is, or a jump to it, or the name of one that is not there."""
    return [places[s.section] + s.value if s.section in places else jumps.get(s.name, s.name) for s in symbols]


def _relocate(image: bytearray, rows: list[tuple[int, ...]], base: int, addresses: list[int | str]) -> None:
    for offset, info, addend in rows:
        address, kind = addresses[info >> 32], info & 0xFFFFFFFF
        if isinstance(address, str) or kind not in _RELATIVE:
            raise LinkError(f"the code asks for {address or 'an address'} by relocation {kind}")
        struct.pack_into("<i", image, base + offset, address + addend - (base + offset))
