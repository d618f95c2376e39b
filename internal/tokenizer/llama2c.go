package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// FromLlama2C reads the tokenizer file of llama2.c (tokenizer.bin, tok512.bin) for a model of
// vocab tokens: int32 longest token in bytes, then for every token float32 score, int32 length,
// bytes; little-endian. Ids 0, 1, 2 are <unk>, <s>, </s>, then come 256 byte tokens; ▁ is stored as
// a space (karpathy/llama2.c, tokenizer.py and run.c).
func FromLlama2C(bin []byte, vocab int) (*Spec, error) {
	const specials, bytes, head = 3, 256, 8
	if vocab < specials+bytes || len(bin) < 4 || (len(bin)-4)/head < vocab {
		return nil, fmt.Errorf("%w: %d bytes cannot hold %d llama2.c tokens", ErrMalformed, len(bin), vocab)
	}
	s := NewSpec(SPM)
	s.UNK, s.BOS, s.EOS = 0, 1, 2
	s.AddBOS, s.ByteFallback, s.Prefix = true, true, PrefixAlways
	longest := binary.LittleEndian.Uint32(bin)
	bin = bin[4:]
	for id := range vocab {
		if len(bin) < head {
			return nil, fmt.Errorf("%w: the llama2.c file ends before token %d of %d", ErrMalformed, id, vocab)
		}
		score := math.Float32frombits(binary.LittleEndian.Uint32(bin))
		n := binary.LittleEndian.Uint32(bin[4:])
		bin = bin[head:]
		if n > longest || uint64(n) > uint64(len(bin)) {
			return nil, fmt.Errorf("%w: llama2.c token %d has %d bytes; the longest has %d, and %d are left", ErrMalformed, id, n, longest, len(bin))
		}
		tok, typ := string(bin[:n]), Normal
		bin = bin[n:]
		switch {
		case id == s.UNK:
			typ = Unknown
		case id < specials: // stored as "\n<s>\n"
			tok, typ = strings.TrimSpace(tok), Control
		case id < specials+bytes:
			if tok != byteTokenName(byte(id-specials)) {
				return nil, fmt.Errorf("%w: llama2.c token %d is %q, not a byte token", ErrMalformed, id, tok)
			}
			typ = Byte
		default:
			tok = strings.ReplaceAll(tok, blank, underscore)
		}
		s.Tokens = append(s.Tokens, tok)
		s.Scores = append(s.Scores, score)
		s.Types = append(s.Types, typ)
	}
	if len(bin) > 0 {
		return nil, fmt.Errorf("%w: %d bytes are left after %d llama2.c tokens", ErrMalformed, len(bin), vocab)
	}
	for id := range specials {
		s.Added = append(s.Added, Added{ID: id, Content: s.Tokens[id], Special: true})
	}
	return s, s.Check()
}
