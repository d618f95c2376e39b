package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// FromSentencePiece reads a tokenizer.model, a protocol buffer of SentencePiece, of type BPE or
// Unigram (sentencepiece_model.proto). A start token is added as llama.cpp does, unless ApplyConfigs says
// otherwise; the space in front is repeated after every added token, as in llama.cpp too.
func FromSentencePiece(model []byte) (*Spec, error) {
	s := NewSpec(SPM)
	s.Prefix, s.TrimSpaces, s.FuseUnknown = PrefixAlways, true, true // the defaults of the format
	s.UNK, s.BOS, s.EOS = 0, 1, 2
	kind, escape, suffix := uint64(1), true, false
	trained, normalized := false, false
	err := eachField(model, func(num int, v uint64, b []byte) error {
		switch num {
		case 1:
			return s.readPiece(b)
		case 2: // TrainerSpec
			trained = true
			return eachField(b, func(num int, v uint64, _ []byte) error {
				id := int(int32(uint32(v))) // #nosec G115 -- int32 fields are sign-extended to 64 bits
				switch num {
				case 3:
					kind = v
				case 24:
					suffix = v != 0
				case 35:
					s.ByteFallback = v != 0
				case 40:
					s.UNK = id
				case 41:
					s.BOS = id
				case 42:
					s.EOS = id
				case 43:
					s.PAD = id
				}
				return nil
			})
		case 3: // NormalizerSpec
			normalized = true
			return eachField(b, func(num int, v uint64, b []byte) error {
				switch num {
				case 2:
					s.Charsmap = slices.Clone(b)
				case 3:
					if v == 0 {
						s.Prefix = PrefixNone
					}
				case 4:
					s.TrimSpaces = v != 0
				case 5:
					escape = v != 0
				}
				return nil
			})
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(s.Tokens) == 0:
		return nil, fmt.Errorf("%w: no SentencePiece pieces", ErrMalformed)
	case !trained || !normalized: // a file that ends between its parts is well-formed, too
		return nil, fmt.Errorf("%w: a SentencePiece model that is cut off", ErrMalformed)
	case kind != 1 && kind != 2:
		return nil, fmt.Errorf("%w: SentencePiece model type %d; Unigram (1) and BPE (2) are", ErrUnsupported, kind)
	case kind == 2 && len(s.Charsmap) > 0:
		return nil, fmt.Errorf("%w: SentencePiece with a table of character normalization", ErrUnsupported)
	case !escape || suffix:
		return nil, fmt.Errorf("%w: SentencePiece that does not put ▁ before words", ErrUnsupported)
	}
	for _, sp := range s.specials() {
		if *sp.at >= len(s.Tokens) {
			*sp.at = -1
		}
	}
	s.AddBOS = s.BOS >= 0
	if kind == 1 {
		s.Model = Unigram
	}
	for i, typ := range s.Types {
		if typ == Control || typ == Unknown || typ == UserDefined {
			s.Added = append(s.Added, Added{ID: i, Content: s.tokenText(i), Special: typ != UserDefined})
		}
	}
	return s, s.Check()
}

// readPiece reads one SentencePiece message.
func (s *Spec) readPiece(b []byte) error {
	piece, score, typ := "", float32(0), Normal
	err := eachField(b, func(num int, v uint64, b []byte) error {
		switch num {
		case 1:
			piece = string(b)
		case 2:
			score = math.Float32frombits(uint32(v)) // #nosec G115 -- a 32-bit field
		case 3:
			if v < uint64(Normal) || v > uint64(Byte) {
				return fmt.Errorf("%w: SentencePiece type %d", ErrMalformed, v)
			}
			typ = TokenType(v) // #nosec G115
		}
		return nil
	})
	s.Tokens = append(s.Tokens, piece)
	s.Scores = append(s.Scores, score)
	s.Types = append(s.Types, typ)
	return err
}

// eachField walks a protocol buffer message: v is the value of a number field, b the bytes of a
// length-delimited one.
func eachField(msg []byte, fn func(num int, v uint64, b []byte) error) error {
	for len(msg) > 0 {
		tag, n := binary.Uvarint(msg)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return fmt.Errorf("%w: not a protocol buffer", ErrMalformed)
		}
		msg = msg[n:]
		var v uint64
		var b []byte
		switch tag & 7 {
		case 0:
			if v, n = binary.Uvarint(msg); n <= 0 {
				return fmt.Errorf("%w: a number is cut off", ErrMalformed)
			}
		case 1:
			if n = 8; len(msg) >= n {
				v = binary.LittleEndian.Uint64(msg)
			}
		case 2:
			size, k := binary.Uvarint(msg)
			if k <= 0 || size > uint64(len(msg)-k) {
				return fmt.Errorf("%w: field %d is cut off", ErrMalformed, tag>>3)
			}
			n = k + int(size) // #nosec G115 -- at most len(msg)
			b = msg[k:n]
		case 5:
			if n = 4; len(msg) >= n {
				v = uint64(binary.LittleEndian.Uint32(msg))
			}
		default:
			return fmt.Errorf("%w: wire type %d", ErrMalformed, tag&7)
		}
		if n > len(msg) {
			return fmt.Errorf("%w: field %d is cut off", ErrMalformed, tag>>3)
		}
		msg = msg[n:]
		if err := fn(int(tag>>3), v, b); err != nil { // #nosec G115 -- checked above
			return err
		}
	}
	return nil
}
