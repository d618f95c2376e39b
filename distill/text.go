package distill

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
)

// Text is what is learned from.
type Text struct {
	IDs [][]int32
	// Learn says for every token whether giving it is learned; the others are only read. Nil: all are, and
	// all sequences have one length. The first token of a sequence is never given.
	Learn [][]bool
}

// Plain is text of which every token is learned.
func Plain(seqs [][]int32) Text { return Text{IDs: seqs} }

// check refuses what cannot be learned from.
func (t Text) check() error {
	switch {
	case len(t.IDs) == 0:
		return fault.As(fault.ErrMisuse, errors.New("no text to learn from"))
	case t.Learn != nil && len(t.Learn) != len(t.IDs):
		return fault.As(fault.ErrMisuse, fmt.Errorf("%d sequences, %d say what is learned", len(t.IDs), len(t.Learn)))
	}
	learned := 0
	for i, s := range t.IDs {
		if len(s) == 0 || t.Learn == nil && len(s) != len(t.IDs[0]) || t.Learn != nil && len(t.Learn[i]) != len(s) {
			return fault.As(fault.ErrMisuse, fmt.Errorf("sequence %d has %d tokens", i, len(s)))
		}
		learned += t.counts(i)
	}
	if learned == 0 {
		return fault.As(fault.ErrMisuse, errors.New("no token of the text is to be learned"))
	}
	return nil
}

// longest is the length of the longest sequence.
func (t Text) longest() (n int) {
	for _, s := range t.IDs {
		n = max(n, len(s))
	}
	return n
}

// Tokens is the length of all.
func (t Text) Tokens() (n int64) {
	for _, s := range t.IDs {
		n += int64(len(s))
	}
	return n
}

// Key stands for the text and what of it is learned.
func (t Text) Key() string {
	h := sha256.New()
	put := func(v any) { _ = binary.Write(h, binary.LittleEndian, v) } // a hash takes everything
	put(t.Learn != nil)
	for i, s := range t.IDs {
		put(int64(len(s)))
		put(s)
		if t.Learn != nil {
			put(t.Learn[i])
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// counts is how many tokens of a sequence are given and learned.
func (t Text) counts(i int) (n int) {
	for j := 1; j < len(t.IDs[i]); j++ {
		if t.learns(i, j) {
			n++
		}
	}
	return n
}

func (t Text) learns(i, j int) bool { return t.Learn == nil || t.Learn[i][j] }

// pick is some sequences, the shorter ones filled up: what stands behind the end changes nothing before it.
func (t Text) pick(which []int) Text {
	var out Text
	long := 0
	for _, i := range which {
		long = max(long, len(t.IDs[i]))
	}
	for _, i := range which {
		s := t.IDs[i]
		if t.Learn != nil {
			learn := make([]bool, long)
			copy(learn, t.Learn[i])
			out.Learn = append(out.Learn, learn)
			s = append(make([]int32, 0, long), s...)[:long]
		}
		out.IDs = append(out.IDs, s)
	}
	return out
}
