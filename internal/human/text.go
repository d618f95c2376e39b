package human

import (
	"bytes"
	"unicode/utf8"
)

// IsText tells text from other files, as other tools do by zero bytes, and by more than a stray
// damaged character.
func IsText(b []byte) bool {
	if bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	bad := 0
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			bad++
		}
		i += n
	}
	return bad*100 <= len(b)
}
