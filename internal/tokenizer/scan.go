package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// Word splitters written by hand for the patterns nearly every published byte-level tokenizer
// uses. The tests hold them to the regular expressions they stand for.

// Patterns as they stand in tokenizer.json files.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// scanner gives the end of the word that starts at s[i]; i < len(s).
type scanner func(s string, i int) int

// scannerFor returns the hand-written splitter of a pattern, or nil.
func scannerFor(pattern string) scanner {
	switch pattern {
	case patternGPT2:
		return scanGPT2
	case patternLlama3:
		return func(s string, i int) int { return scanLlama3(s, i, 3) }
	case patternQwen2:
		return func(s string, i int) int { return scanLlama3(s, i, 1) }
	}
	return nil
}

type class uint8

const (
	other class = iota
	letter
	number
	space // white space but for the next one
	newline
	nothing // the end of the text
)

var asciiClass = func() (t [utf8.RuneSelf]class) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			t[c] = letter
		case c >= '0' && c <= '9':
			t[c] = number
		case c == '\r' || c == '\n':
			t[c] = newline
		case c == ' ' || c == '\t' || c == '\v' || c == '\f':
			t[c] = space
		}
	}
	return t
}()

// classAt classifies the character at s[i] and gives its width.
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return nothing, 0
	}
	if s[i] < utf8.RuneSelf {
		return asciiClass[s[i]], 1
	}
	r, w := utf8.DecodeRuneInString(s[i:])
	switch {
	case unicode.IsLetter(r):
		return letter, w
	case unicode.IsNumber(r):
		return number, w
	case unicode.IsSpace(r):
		return space, w
	}
	return other, w
}

// run gives the end of the stretch of characters of class c that starts at s[i].
func run(s string, i int, c class) int {
	for {
		got, w := classAt(s, i)
		if got != c {
			return i
		}
		i += w
	}
}

func scanGPT2(s string, i int) int {
	if n := contraction(s, i, false); n > 0 {
		return i + n
	}
	start := i
	c, w := classAt(s, i)
	if s[i] == ' ' {
		if c2, w2 := classAt(s, i+1); c2 < space {
			c, w, i = c2, w2, i+1
		}
	}
	if c < space {
		return run(s, i+w, c)
	}
	return scanSpaces(s, start, false)
}

// scanLlama3 splits numbers after every digits-th digit.
func scanLlama3(s string, i, digits int) int {
	if n := contraction(s, i, true); n > 0 {
		return i + n
	}
	c, w := classAt(s, i)
	switch c {
	case letter:
		return run(s, i+w, letter)
	case number:
		for range digits {
			if c, w = classAt(s, i); c != number {
				break
			}
			i += w
		}
		return i
	case other, space:
		c2, w2 := classAt(s, i+w)
		switch {
		case c2 == letter:
			return run(s, i+w+w2, letter)
		case c == other:
			return run(s, run(s, i+w, other), newline)
		case s[i] == ' ' && c2 == other:
			return run(s, run(s, i+w+w2, other), newline)
		}
	}
	return scanSpaces(s, i, true)
}

// scanSpaces is \s*[\r\n]+ (if newlines is set), then \s+(?!\S), then \s+: white space up to the
// last line end; else all of it at the end of the text; else all but the last character, which
// belongs to the next word, unless it is the only one.
func scanSpaces(s string, i int, newlines bool) int {
	last, afterNewline := i, 0
	end := i
	for {
		c, w := classAt(s, end)
		if c != space && c != newline {
			switch {
			case newlines && afterNewline > 0:
				return afterNewline
			case c == nothing || last == i:
				return end
			}
			return last
		}
		last = end
		end += w
		if c == newline {
			afterNewline = end
		}
	}
}

// contraction gives the length of 's, 't, 're, 've, 'm, 'll or 'd at s[i], or 0. With fold, case
// does not matter, and neither does the long s (U+017F), which folds to s.
func contraction(s string, i int, fold bool) int {
	if s[i] != '\'' || i+1 >= len(s) {
		return 0
	}
	lower := func(c byte) byte {
		if fold && c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}
	switch lower(s[i+1]) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if i+2 < len(s) && lower(s[i+2]) == 'e' {
			return 3
		}
	case 'l':
		if i+2 < len(s) && lower(s[i+2]) == 'l' {
			return 3
		}
	case 0xC5: // first byte of U+017F
		if fold && i+2 < len(s) && s[i+2] == 0xBF {
			return 3
		}
	}
	return 0
}
