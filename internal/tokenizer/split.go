package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"

	"github.com/pare-dev/pare/internal/fault"
)

// A pattern comes from a file that nobody vouches for, and the engine that runs it backtracks: a few
// characters such as "(a+)+$" can take longer than anyone waits. Published patterns take about a
// microsecond per byte, so these bounds stop only what would not have ended well.
const (
	maxPattern   = 1 << 13         // bytes of a pattern, which also bounds how deep its groups nest
	matchTime    = 2 * time.Second // one match
	splitTime    = 5 * time.Second // all matches in a text, and on top of that
	splitPerByte = 20 * time.Microsecond
)

// splitter cuts text into words by a chain of patterns: each cuts the words of the one before.
type splitter struct {
	scan   scanner // set when the whole chain is one known pattern
	stages []stage
}

type stage struct {
	scan    scanner
	re      *regexp2.Regexp
	removed bool
}

func newSplitter(splits []Split) (*splitter, error) {
	sp := &splitter{}
	for _, s := range splits {
		st := stage{removed: s.Removed}
		if st.scan = scannerFor(s.Pattern); st.scan == nil {
			re, err := compile(s.Pattern)
			if err != nil {
				return nil, err
			}
			st.re = re
		}
		sp.stages = append(sp.stages, st)
	}
	if len(sp.stages) == 1 {
		sp.scan = sp.stages[0].scan
	}
	return sp, nil
}

// words returns the words of s in order. Without patterns, all of s is one word.
func (sp *splitter) words(s string) ([]string, error) {
	in := []string{s}
	deadline := time.Now().Add(splitTime + time.Duration(len(s))*splitPerByte)
	for _, st := range sp.stages {
		out := make([]string, 0, len(in)+len(s)/4)
		for _, w := range in {
			var err error
			if out, err = st.cut(out, w, deadline); err != nil {
				return nil, err
			}
		}
		in = out
	}
	return in, nil
}

func (st stage) cut(out []string, s string, deadline time.Time) ([]string, error) {
	if st.scan != nil {
		for i := 0; i < len(s); {
			j := st.scan(s, i)
			out = append(out, s[i:j])
			i = j
		}
		return out, nil
	}
	// Matches are counted in runes; pos follows in bytes.
	pos, runes := 0, 0
	advance := func(to int) int {
		for ; runes < to; runes++ {
			_, w := utf8.DecodeRuneInString(s[pos:])
			pos += w
		}
		return pos
	}
	m, err := st.re.FindStringMatch(s)
	for ; m != nil && err == nil; m, err = st.re.FindNextMatch(m) {
		if time.Now().After(deadline) {
			return nil, st.tooSlow(s[pos:])
		}
		before := pos
		lo := advance(m.Index)
		hi := advance(m.Index + m.Length)
		if lo > before && !st.removed {
			out = append(out, s[before:lo])
		}
		if hi > lo {
			out = append(out, s[lo:hi])
		}
	}
	if err != nil { // only a timeout makes a match fail
		return nil, st.tooSlow(s[pos:])
	}
	if pos < len(s) && !st.removed {
		out = append(out, s[pos:])
	}
	return out, nil
}

// tooSlow says which pattern does not come to an end, and on what.
func (st stage) tooSlow(s string) error {
	const shown = 40
	if len(s) > shown {
		s = strings.ToValidUTF8(s[:shown], "") + "…"
	}
	return &fault.Error{
		Op: "tokenizer", Err: fmt.Errorf("%w: pattern %q at %q", ErrTooSlow, st.re.String(), s),
		Hint: "the pattern that splits words tries too many ways to match: correct it in tokenizer.json (pre_tokenizer)",
	}
}

// compile prepares a pattern in the syntax of tokenizer.json for regexp2.
func compile(pattern string) (*regexp2.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("%w: a pattern of %d bytes", ErrUnsupported, len(pattern))
	}
	re, err := regexp2.Compile(fromOniguruma(pattern), regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("%w: pattern %q: %w", ErrUnsupported, pattern, err)
	}
	re.MatchTimeout = matchTime
	return re, nil
}

// fromOniguruma rewrites what Oniguruma's Ruby syntax says differently from .NET's: "a++", "a*+"
// and "a?+" are possessive there and errors here, so they become atomic groups; "a{1,3}+" is not
// possessive in Ruby but repeats, so it becomes a group that repeats. Classes stay as they are.
func fromOniguruma(p string) string {
	if !strings.Contains(p, "++") && !strings.Contains(p, "*+") && !strings.Contains(p, "?+") && !strings.Contains(p, "}+") {
		return p
	}
	var out []byte
	atom := 0        // where the last atom starts in out
	var groups []int // where the open groups start in out
	for i := 0; i < len(p); {
		n := 1 // bytes of the token at p[i]
		switch c := p[i]; c {
		case '\\':
			n = escapeLen(p[i:])
			atom = len(out)
		case '[':
			n = classLen(p[i:])
			atom = len(out)
		case '(':
			groups = append(groups, len(out))
		case ')':
			if len(groups) > 0 {
				atom = groups[len(groups)-1]
				groups = groups[:len(groups)-1]
			}
		case '*', '+', '?', '{':
			if c == '{' {
				if n = strings.IndexByte(p[i:], '}') + 1; n == 0 {
					n = 1
				}
			}
			if i > 0 && p[i-1] == '(' { // "(?": no quantifier
				break
			}
			if i+n < len(p) && p[i+n] == '+' {
				open := "(?>"
				after := ")"
				if c == '{' {
					open, after = "(?:", ")+"
				}
				out = append(out, p[i:i+n]...)
				out = slices.Insert(out, atom, []byte(open)...)
				out = append(out, after...)
				i += n + 1
				continue
			}
		case '|':
		default:
			_, n = utf8.DecodeRuneInString(p[i:])
			atom = len(out)
		}
		out = append(out, p[i:i+n]...)
		i += n
	}
	return string(out)
}

// escapeLen is the length of the escape that p starts with: \d, \p{L}, \x{1F600}, \u00e9.
func escapeLen(p string) int {
	if len(p) < 2 {
		return len(p)
	}
	if len(p) > 2 && p[2] == '{' {
		if end := strings.IndexByte(p, '}'); end > 0 {
			return end + 1
		}
	}
	switch {
	case p[1] == 'x' && len(p) >= 4:
		return 4
	case p[1] == 'u' && len(p) >= 6:
		return 6
	}
	_, w := utf8.DecodeRuneInString(p[1:])
	return 1 + w
}

// classLen is the length of the bracketed class that p starts with.
func classLen(p string) int {
	depth := 0
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '[':
			depth++
		case ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(p)
}
