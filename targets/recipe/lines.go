package recipe

import (
	"fmt"
	"strings"
)

// positions finds the line of every key and table of a TOML text by its path: "gate.kl_mean",
// "target[1].quantize". The TOML library does not tell where a key stands, and a message without
// a line is a search. The text has already been parsed, so this scanner may trust its syntax; on
// anything it does not understand it stops, and later messages carry no line.
func positions(text string) map[string]int {
	s := &scanner{text: text, line: 1, at: map[string]int{}, count: map[string]int{}}
	table := ""
	for {
		s.space(true)
		switch {
		case s.pos >= len(s.text):
			return s.at
		case s.next("[["):
			keys, ok := s.keys()
			if !ok || !s.next("]]") {
				return s.at
			}
			name := s.resolve(keys[:len(keys)-1])
			name = join(name, keys[len(keys)-1])
			table = fmt.Sprintf("%s[%d]", name, s.count[name])
			s.count[name]++
			s.mark(table)
		case s.next("["):
			keys, ok := s.keys()
			if !ok || !s.next("]") {
				return s.at
			}
			table = s.resolve(keys)
			s.mark(table)
		default:
			if !s.pair(table) {
				return s.at
			}
		}
	}
}

type scanner struct {
	text  string
	pos   int
	line  int
	at    map[string]int
	count map[string]int // elements of an array of tables so far
}

func (s *scanner) mark(path string) {
	if _, seen := s.at[path]; !seen {
		s.at[path] = s.line
	}
}

// resolve joins keys; a name that is an array of tables means its latest element.
func (s *scanner) resolve(keys []string) (path string) {
	for _, k := range keys {
		path = join(path, k)
		if n := s.count[path]; n > 0 {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	return path
}

func (s *scanner) next(token string) bool {
	if strings.HasPrefix(s.text[s.pos:], token) {
		s.skip(len(token))
		return true
	}
	return false
}

func (s *scanner) skip(n int) {
	s.line += strings.Count(s.text[s.pos:s.pos+n], "\n")
	s.pos += n
}

// space skips blanks and comments, and, with lines set, line ends.
func (s *scanner) space(lines bool) {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' && lines:
			s.skip(1)
		case c == '#':
			if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
				s.pos += i
			} else {
				s.pos = len(s.text)
			}
		default:
			return
		}
	}
}

// keys reads a dotted key.
func (s *scanner) keys() (keys []string, ok bool) {
	for {
		s.space(false)
		if s.pos >= len(s.text) {
			return nil, false
		}
		if c := s.text[s.pos]; c == '"' || c == '\'' {
			start := s.pos
			if !s.quoted() {
				return nil, false
			}
			keys = append(keys, s.text[start+1:s.pos-1])
		} else {
			n := strings.IndexAny(s.text[s.pos:], " \t\r\n.=]#,}")
			if n <= 0 {
				return nil, false
			}
			keys = append(keys, s.text[s.pos:s.pos+n])
			s.pos += n
		}
		s.space(false)
		if !s.next(".") {
			return keys, true
		}
	}
}

// pair reads key = value below table and marks it.
func (s *scanner) pair(table string) bool {
	line := s.line
	keys, ok := s.keys()
	if !ok || !s.next("=") {
		return false
	}
	path := table
	for _, k := range keys {
		path = join(path, k)
		if _, seen := s.at[path]; !seen {
			s.at[path] = line
		}
	}
	return s.value(path)
}

// value skips a value, marking what is inside it.
func (s *scanner) value(path string) bool {
	s.space(true)
	if s.pos >= len(s.text) {
		return false
	}
	switch c := s.text[s.pos]; c {
	case '"', '\'':
		return s.quoted()
	case '[':
		s.skip(1)
		for i := 0; ; i++ {
			s.space(true)
			if s.next("]") {
				return true
			}
			item := fmt.Sprintf("%s[%d]", path, i)
			s.mark(item)
			if !s.value(item) {
				return false
			}
			s.space(true)
			s.next(",")
		}
	case '{':
		s.skip(1)
		for {
			s.space(true)
			if s.next("}") {
				return true
			}
			if !s.pair(path) {
				return false
			}
			s.space(true)
			s.next(",")
		}
	default:
		n := strings.IndexAny(s.text[s.pos:], ",]}#\r\n")
		if n < 0 {
			n = len(s.text) - s.pos
		}
		s.pos += n
		return n > 0
	}
}

// quoted skips a string of any of the four kinds.
func (s *scanner) quoted() bool {
	q := s.text[s.pos : s.pos+1]
	if triple := strings.Repeat(q, 3); s.next(triple) {
		q = triple
	} else {
		s.skip(1)
	}
	for s.pos < len(s.text) {
		switch {
		case q[0] == '"' && s.text[s.pos] == '\\' && s.pos+1 < len(s.text):
			s.skip(2)
		case s.next(q):
			for len(q) == 3 && s.pos < len(s.text) && s.text[s.pos] == q[0] { // up to two quotes may precede the end
				s.skip(1)
			}
			return true
		default:
			s.skip(1)
		}
	}
	return false
}
