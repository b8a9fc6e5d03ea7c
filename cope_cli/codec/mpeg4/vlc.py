# mypy: disallow-untyped-decorators=False
"""Reading a VOP's macroblocks: the variable-length codes of MPEG-4 Part 2 and the compiled loop that follows them.

Covered: rectangular I- and P-VOPs without data partitioning: MCBPC, CBPY, motion vector differences, DC sizes and DCT
coefficients (ISO/IEC 14496-2, annex B).
Not covered: B-VOPs, reversible codes, short headers; video packets are refused. Values of coefficients are not read:
an entry only says how many bits they take, how many places of the block they fill and whether they end it. Short
coefficients share an entry: one look-up skips all that end within the window.

The data must have PADDING_BYTES zeros behind it. No code begins with WINDOW_BITS zeros, so what begins behind the end
is an error at once, and nothing behind the padding is read, for any data.

Tables and loop share a file because numba's cache only looks at the date of the file that a function stands in.
"""

from __future__ import annotations

import functools

import numpy as np

from cope_cli.codec.compiled import compiled
from cope_cli.types import UInt16

#: Kinds of macroblocks: not coded, with one vector, with four, without.
SKIPPED, INTER, INTER_4V, INTRA = range(4)

# Codes as the standard prints them, in the order of what they stand for.

# MCBPC: four codes (chroma pattern 0 to 3: neither, Cr, Cb, both) for each (kind, changes the quantiser).
_MACROBLOCKS_OF_I = {
    (INTRA, False): "1 001 010 011",
    (INTRA, True): "0001 000001 000010 000011",
}
_MACROBLOCKS_OF_P = {
    (INTER, False): "1 0011 0010 000101",
    (INTER, True): "011 0000111 0000110 000000101",
    (INTER_4V, False): "010 0000101 0000100 00000101",
    (INTRA, False): "00011 00000100 00000011 0000011",
    (INTRA, True): "000100 000000100 000000011 000000010",
}
_STUFFING = "000000001"

# CBPY: luma patterns 0 to 15 of intra macroblocks; inter macroblocks use the inverted pattern.
_LUMA_PATTERNS = "0011 00101 00100 1001 00011 0111 000010 1011 00010 000011 0101 1010 0100 1000 0110 11"

# MVD: magnitudes 0 to 32; a sign follows, except after 0.
_VECTORS = (
    "1 01 001 0001 000011 0000101 0000100 0000011 000001011 000001010 000001001 0000010001 0000010000 0000001111 "
    "0000001110 0000001101 0000001100 0000001011 0000001010 0000001001 0000001000 0000000111 0000000110 0000000101 "
    "0000000100 00000000111 00000000110 00000000101 00000000100 00000000011 00000000010 000000000011 000000000010"
)

# dct_dc_size of luma and chroma: sizes 0 to 12; that many bits follow, and after more than 8 bits a marker.
_DC_SIZES = (
    "011 11 10 010 001 0001 00001 000001 0000001 00000001 000000001 0000000001 00000000001",
    "11 10 01 001 0001 00001 000001 0000001 00000001 000000001 0000000001 00000000001 000000000001",
)

# TCOEF of inter and of intra blocks, the block's last coefficient apart from the others: for each run of zeros from 0,
# ended by a semicolon, the codes of the levels from 1. A sign follows each.
_COEFFICIENTS = (
    (
        "10 1111 010101 0010111 00011111 000100101 000100100 0000100001 0000100000 00000000111 00000000110 "
        "00000100000; 110 010100 00011110 0000001111 00000100001 000001010000; 1110 00011101 0000001110 "
        "000001010001; 01101 000100011 0000001101; 01100 000100010 000001010010; 01011 0000001100 000001010011; "
        "010011 0000001011 000001010100; 010010 0000001010; 010001 0000001001; 010000 0000001000; 0010110 "
        "000001010101; 0010101; 0010100; 00011100; 00011011; 000100001; 000100000; 000011111; 000011110; "
        "000011101; 000011100; 000011011; 000011010; 00000100010; 00000100011; 000001010110; 000001010111",
        "0111 000011001 00000000101; 001111 00000000100; 001110; 001101; 001100; 0010011; 0010010; 0010001; "
        "0010000; 00011010; 00011001; 00011000; 00010111; 00010110; 00010101; 00010100; 00010011; 000011000; "
        "000010111; 000010110; 000010101; 000010100; 000010011; 000010010; 000010001; 0000000111; 0000000110; "
        "0000000101; 0000000100; 00000100100; 00000100101; 00000100110; 00000100111; 000001011000; 000001011001; "
        "000001011010; 000001011011; 000001011100; 000001011101; 000001011110; 000001011111",
    ),
    (
        "10 110 1111 01101 01100 010101 010011 010010 0010111 00011111 00011110 00011101 000100101 000100100 "
        "000100011 000100001 0000100001 0000100000 0000001111 0000001110 00000000111 00000000110 00000100000 "
        "00000100001 000001010000 000001010001 000001010010; 1110 010100 0010110 00011100 000100000 000011111 "
        "0000001101 00000100010 000001010011 000001010101; 01011 0010101 000011110 0000001100 000001010110; "
        "010001 00011011 000011101 0000001011; 010000 000100010 0000001010; 001101 000011100 0000001000; 0010010 "
        "000011011 000001010100; 0010100 000011010 000001010111; 00011001 0000001001; 00011000 00000100011; "
        "00010111; 000011001; 000011000; 0000000111; 000001011000",
        "0111 001100 00010110 000010111 0000000110 00000000101 00000000100 000001011001; 001111 000010110 "
        "0000000101; 001110 0000000100; 0010001 00000100100; 0010000 00000100101; 0010011 000001011010; 00010101 "
        "000001011011; 00010100; 00010011; 00011010; 000010101; 000010100; 000010011; 000010010; 000010001; "
        "00000100110; 00000100111; 000001011100; 000001011101; 000001011110; 000001011111",
    ),
)
#: What stands before a coefficient that has no code of its own.
ESCAPE, ESCAPE_BITS = 0b0000011, 7

# Where each kind's entries begin in the table, and by how many bits they are looked up.
WINDOW_BITS = 12
MACROBLOCK_BITS = 9
PATTERN_BITS = 6
MACROBLOCKS_AT = 0  # of I-VOPs, then of P-VOPs
PATTERNS_AT = MACROBLOCKS_AT + (2 << MACROBLOCK_BITS)
VECTORS_AT = PATTERNS_AT + (1 << PATTERN_BITS)
DC_AT = VECTORS_AT + (1 << WINDOW_BITS)  # luma, then chroma
COEFFICIENTS_AT = DC_AT + (2 << WINDOW_BITS)  # of inter blocks, then of intra blocks
ESCAPED_AT = COEFFICIENTS_AT + (2 << WINDOW_BITS)  # inter: after escapes of type 1, of type 2; intra: the same

# How an entry's 16 bits are shared out; an entry of 0 is no code.
LENGTH_MASK = 15  # except for DC: bits to skip
KIND_SHIFT, CHANGES_QUANTISER_BIT, CHROMA_SHIFT = 4, 64, 7  # macroblocks; kind SKIPPED marks stuffing
VALUE_SHIFT = 4  # patterns and vectors
LAST_SHIFT, PLACES_SHIFT = 4, 5  # coefficients: ends the block; places filled, zeros included


def _by_first_bits(entries: dict[str, int], num_bits: int) -> UInt16:
    """Return (2 ** num_bits,) entries: every index that begins with a code has its entry."""
    table = np.zeros(1 << num_bits, np.uint16)
    for code, entry in entries.items():
        first = int(code, 2) << (num_bits - len(code))
        table[first : first + (1 << (num_bits - len(code)))] = entry
    return table


def _macroblock_entries(codes: dict[tuple[int, bool], str]) -> dict[str, int]:
    entries = {_STUFFING: len(_STUFFING)}
    for (kind, changes_quantiser), row in codes.items():
        for chroma, code in enumerate(row.split()):
            fixed = kind << KIND_SHIFT | changes_quantiser * CHANGES_QUANTISER_BIT
            entries[code] = len(code) | fixed | chroma << CHROMA_SHIFT
    return entries


def _pattern_entries() -> dict[str, int]:
    return {code: len(code) | value << VALUE_SHIFT for value, code in enumerate(_LUMA_PATTERNS.split())}


def _vector_entries() -> dict[str, int]:
    """Return entries whose length has the sign in it."""
    return {code: len(code) + (value > 0) | value << VALUE_SHIFT for value, code in enumerate(_VECTORS.split())}


def _dc_entries(codes: str) -> dict[str, int]:
    """Return how long code, DC value and marker are together."""
    return {code: len(code) + size + (size > 8) for size, code in enumerate(codes.split())}


def _coefficient_entries(codes: tuple[str, str], *, is_run_longer: bool = False) -> dict[str, int]:
    """Return entries whose length has the sign in it; after an escape of type 2 the run is longer by RMAX + 1."""
    entries = {}
    for is_last, rows in enumerate(codes):
        levels_of_run = [row.split() for row in rows.split(";")]
        for run, levels in enumerate(levels_of_run):
            for index, code in enumerate(levels):
                longest_run = max(other for other, row in enumerate(levels_of_run) if len(row) > index)
                places = run + 1 + is_run_longer * (longest_run + 1)
                entries[code] = len(code) + 1 | is_last << LAST_SHIFT | places << PLACES_SHIFT
    return entries


def _joined(single: UInt16) -> UInt16:
    """Let each entry skip, after its own coefficient, those whose codes also end within the window."""
    joined, index = single, np.arange(len(single))
    for _ in range(WINDOW_BITS // 3):  # the shortest coefficient takes 3 bits
        length = joined & LENGTH_MASK
        after = single[(index << length) & (len(single) - 1)]
        fits = (length > 0) & (joined >> LAST_SHIFT & 1 == 0) & (after > 0)
        fits &= length + (after & LENGTH_MASK) <= WINDOW_BITS + 1  # the last sign may lie behind the window
        joined = np.where(fits, joined + after, joined)
    return joined


@functools.cache
def table() -> UInt16:
    """Return all codes' entries, (ESCAPED_AT + 4 * 2 ** WINDOW_BITS,); built at the first call (milliseconds)."""
    macroblocks = (_MACROBLOCKS_OF_I, _MACROBLOCKS_OF_P)
    coefficients = [_by_first_bits(_coefficient_entries(codes), WINDOW_BITS) for codes in _COEFFICIENTS]
    longer = [_by_first_bits(_coefficient_entries(codes, is_run_longer=True), WINDOW_BITS) for codes in _COEFFICIENTS]
    return np.concatenate(
        [
            *(_by_first_bits(_macroblock_entries(codes), MACROBLOCK_BITS) for codes in macroblocks),
            _by_first_bits(_pattern_entries(), PATTERN_BITS),
            _by_first_bits(_vector_entries(), WINDOW_BITS),
            *(_by_first_bits(_dc_entries(codes), WINDOW_BITS) for codes in _DC_SIZES),
            *(_joined(single) for single in coefficients),
            *(escaped for pair in zip(coefficients, longer, strict=True) for escaped in pair),
        ]
    )


#: Zeros behind the packet: a code that begins before the end takes at most 30 bits, a look-up reads 8 bytes.
PADDING_BYTES = 16

_BAD_CODE, _TOO_MANY, _ENDS_EARLY, _VIDEO_PACKET = -1, -2, -3, -4
#: What is wrong where `read_macroblocks` returns an error.
REASONS = {
    _BAD_CODE: "bits that are no code",
    _TOO_MANY: "a block of more than 64 coefficients",
    _ENDS_EARLY: "the data ends within it",
    _VIDEO_PACKET: "a resync marker before it (video packets)",
}

#: A helper of `read_macroblocks`: calls between compiled functions copy whole array records, which doubles the time.
_inlined = functools.partial(compiled, forceinline=True)


@_inlined
def _word(data, pos):  # type: ignore[no-untyped-def]
    """Return the bits from `pos` on in the high end of 64; at least 57 of them are there."""
    at = np.uint64(pos) >> np.uint64(3)
    word = np.uint64(0)
    for k in range(8):
        word = word << np.uint64(8) | np.uint64(data[at + np.uint64(k)])
    return word << (np.uint64(pos) & np.uint64(7))


@_inlined
def _first(word, count):  # type: ignore[no-untyped-def]
    """Return a word's first `count` bits, 1 to 63."""
    return np.int64(word >> np.uint64(64 - count))


@_inlined
def _look_up(codes, start, word, count):  # type: ignore[no-untyped-def]
    """Return the entry for a word's first `count` bits in the part of the table that begins at `start`."""
    return np.int64(codes[np.uint64(start) + (word >> np.uint64(64 - count))])


@_inlined
def _is_resync_marker(data, pos):  # type: ignore[no-untyped-def]
    """Whether a video packet begins: a 0 and 1s to the next whole byte, then 16 zeros or more."""
    count = 8 - (pos & 7)
    word = _word(data, pos)
    return _first(word, count) == (1 << (count - 1)) - 1 and _first(word << np.uint64(count), 16) == 0


@_inlined
def _skip_escaped(data, pos, codes, is_intra):  # type: ignore[no-untyped-def]
    """Return the position behind an escaped coefficient, or an error, and its entry, of which the length is void."""
    word = _word(data, pos)
    if _first(word, ESCAPE_BITS) != ESCAPE:
        return np.int64(_BAD_CODE), np.int64(0)
    word <<= np.uint64(ESCAPE_BITS)
    if _first(word, 2) == 3:  # type 3: last (1 bit), run (6), marker, level (12), marker
        bits = _first(word, 23)
        if not (bits >> 13 & 1 and bits >> 1 & 4095 and bits & 1):
            return np.int64(_BAD_CODE), np.int64(0)
        return pos + ESCAPE_BITS + 23, (bits >> 20 & 1) << LAST_SHIFT | ((bits >> 14 & 63) + 1) << PLACES_SHIFT
    is_long = _first(word, 1)  # type 1, a larger level, or type 2, a longer run
    word <<= np.uint64(1 + is_long)
    entry = _look_up(codes, ESCAPED_AT + ((2 * is_intra + is_long) << WINDOW_BITS), word, WINDOW_BITS)
    if entry == 0:
        return np.int64(_BAD_CODE), np.int64(0)
    return pos + ESCAPE_BITS + 1 + is_long + (entry & LENGTH_MASK), entry


@_inlined
def _skip_coefficients(data, pos, codes, is_intra, num_blocks):  # type: ignore[no-untyped-def]
    """Return the position behind so many blocks' coefficients, or an error.

    Blocks are counted down without a branch: where each ends cannot be foreseen, and a wrong guess is dear.
    """
    start = COEFFICIENTS_AT + (is_intra << WINDOW_BITS)
    places, most = is_intra, np.int64(0)  # DC fills a place
    word, num_bits = np.uint64(0), 0
    while num_blocks > 0:
        if num_bits <= WINDOW_BITS:
            word, num_bits = _word(data, pos), 57
        entry = _look_up(codes, start, word, WINDOW_BITS)
        if entry == 0:
            pos, entry = _skip_escaped(data, pos, codes, is_intra)
            if pos < 0:
                return pos
            num_bits = 0
        else:
            length = entry & LENGTH_MASK
            word <<= np.uint64(length)
            num_bits -= length
            pos += length
        is_last = entry >> LAST_SHIFT & 1
        places += entry >> PLACES_SHIFT
        most = max(most, places)
        places &= is_last - 1  # 0 for the next block
        num_blocks -= is_last
    return pos if most <= 64 else _TOO_MANY


@_inlined
def _num_ones(bits):  # type: ignore[no-untyped-def]
    """Return how many bits are 1."""
    count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count


@_inlined
def _skip_intra_blocks(data, pos, codes, pattern):  # type: ignore[no-untyped-def]
    """Return the position behind an intra macroblock's six blocks, or an error."""
    for block in range(6):
        length = _look_up(codes, DC_AT + ((block >> 2) << WINDOW_BITS), _word(data, pos), WINDOW_BITS)
        if length == 0:
            return np.int64(_BAD_CODE)
        pos = _skip_coefficients(data, pos + length, codes, np.int64(1), pattern >> (5 - block) & 1)
        if pos < 0:
            return pos
    return pos


@_inlined
def _median(a, b, c):  # type: ignore[no-untyped-def]
    return max(min(a, b), min(max(a, b), c))


@_inlined
def _read_vector(data, pos, codes, residual_bits, flat, cell, left, above, diagonal):  # type: ignore[no-untyped-def]
    """Read one vector and store its negative, the displacement, at flat[cell] and flat[cell + 1].

    It is coded as its difference from the median of three neighbours' vectors. Behind the left or the right edge
    these are 0; in the first row there is only the left one. (In pictures one macroblock wide the standard takes the
    vector above alone; FFmpeg, which wrote the stream, does not.)

    `left`, `above` and `diagonal` say where the neighbours' displacements are, relative to cell, or are 0 where there
    is none. Returns the position behind the vector, or an error.
    """
    word = _word(data, pos)
    half_range = np.int64(32) << residual_bits
    for axis in range(2):
        predicted = np.int64(flat[cell + left + axis]) if left else np.int64(0)
        if above:
            other = np.int64(flat[cell + diagonal + axis]) if diagonal else np.int64(0)
            predicted = _median(predicted, np.int64(flat[cell + above + axis]), other)
        entry = _look_up(codes, VECTORS_AT, word, WINDOW_BITS)
        if entry == 0:
            return np.int64(_BAD_CODE)
        length = entry & LENGTH_MASK
        difference = entry >> VALUE_SHIFT
        sign = -(_first(word, length) & 1)  # 0 or -1; void if the difference is 0
        word <<= np.uint64(length)
        pos += length
        if residual_bits and difference:
            difference = ((difference - 1) << residual_bits) + _first(word, residual_bits) + 1
            word <<= np.uint64(residual_bits)
            pos += residual_bits
        difference = (difference ^ sign) - sign
        flat[cell + axis] = half_range - ((difference - predicted + half_range) & (2 * half_range - 1))
    return pos


@_inlined
def _read_vectors(data, pos, codes, residual_bits, out, row, col, is_four):  # type: ignore[no-untyped-def]
    """Read a macroblock's vector, or its four, into its four cells of `out`; return the position, or an error."""
    stride = 2 * out.shape[1]
    flat = out.reshape(out.shape[0] * stride)
    first = 2 * row * stride + 4 * col
    is_first_row, is_last_col = row == 0, 2 * col + 2 == out.shape[1]
    for block in range(4):
        cell = first + (block & 1) * 2 + (block >> 1) * stride
        left = 0 if col == 0 and block & 1 == 0 else -2
        above = 0 if is_first_row and block < 2 else -stride
        diagonal = (4 if block == 0 else -2 if block == 3 else 2) - stride
        if block < 2 and (is_first_row or is_last_col):
            diagonal = 0
        pos = _read_vector(data, pos, codes, residual_bits, flat, cell, left, above, diagonal)
        if pos < 0:
            return pos
        if not is_four:
            x, y = flat[cell], flat[cell + 1]
            for other in (cell + 2, cell + stride, cell + stride + 2):
                flat[other] = x
                flat[other + 1] = y
            return pos
    return pos


@_inlined
def _read_kind(data, pos, codes, is_iframe):  # type: ignore[no-untyped-def]
    """Return the position behind a macroblock's MCBPC and before it any stuffing, or an error, and its entry."""
    start = MACROBLOCKS_AT + (0 if is_iframe else 1 << MACROBLOCK_BITS)
    while True:
        word = _word(data, pos)
        if not is_iframe:
            pos += 1
            if _first(word, 1):
                return pos, np.int64(SKIPPED)
            word <<= np.uint64(1)
        entry = _look_up(codes, start, word, MACROBLOCK_BITS)
        if entry == 0:
            return np.int64(_BAD_CODE), np.int64(SKIPPED)
        pos += entry & LENGTH_MASK
        if entry >> KIND_SHIFT & 3:
            return pos, entry


@compiled
def read_macroblocks(  # type: ignore[no-untyped-def]
    data, pos, end, is_iframe, residual_bits, may_resync, codes, out, kinds, patterns
):
    """Read a VOP's macroblocks.

    Args:
        data: the packet and PADDING_BYTES zeros.
        pos: the first macroblock's position, in bits.
        end: the packet's length in bits.
        is_iframe: I-VOP or P-VOP.
        residual_bits: f_code - 1, the bits of a vector difference that follow its code.
        may_resync: refuse video packets.
        codes: table().
        out: (rows, cols, 2) int16, overwritten: displacements.
        kinds: (mb_rows, mb_cols) uint8, overwritten.
        patterns: (mb_rows, mb_cols) uint8, overwritten.

    Returns:
        The position behind the last macroblock or an error, and the last macroblock read.
    """
    out[:] = 0
    kinds[:] = SKIPPED
    patterns[:] = 0
    rows, cols = kinds.shape
    for row in range(rows):
        for col in range(cols):
            if may_resync and _is_resync_marker(data, pos):
                return _VIDEO_PACKET, row, col
            pos, entry = _read_kind(data, pos, codes, is_iframe)
            kind = entry >> KIND_SHIFT & 3
            if kind != SKIPPED:
                pos += kind == INTRA  # ac_pred_flag
                pattern = _look_up(codes, PATTERNS_AT, _word(data, pos), PATTERN_BITS)
                if pattern == 0:
                    return _BAD_CODE, row, col
                pos += (pattern & LENGTH_MASK) + (2 if entry & CHANGES_QUANTISER_BIT else 0)
                pattern = pattern >> VALUE_SHIFT << 2 | entry >> CHROMA_SHIFT
                if kind != INTRA:
                    pattern ^= 0b111100
                    pos = _read_vectors(data, pos, codes, residual_bits, out, row, col, kind == INTER_4V)
                    if pos >= 0:
                        pos = _skip_coefficients(data, pos, codes, np.int64(0), _num_ones(pattern))
                else:
                    pos = _skip_intra_blocks(data, pos, codes, pattern)
                kinds[row, col] = kind
                patterns[row, col] = pattern
            if pos < 0:
                return pos, row, col
            if pos > end:
                return _ENDS_EARLY, row, col
    return pos, rows - 1, cols - 1
