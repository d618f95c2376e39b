package tokenizer

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// pairTable maps two adjacent symbols to their merge: the priority (lower goes first) in the upper
// half, the merged symbol in the lower. It is a fixed open-addressing table, since this look-up is
// where encoding spends its time.
type pairTable struct {
	keys, values []uint64
	shift        uint
}

const noPair = math.MaxUint64 // also "no merge": sorts after every merge

func newPairTable(n int) *pairTable {
	size := 1 << bits.Len(uint(max(2*n, 16)-1))                                                                         // #nosec G115 -- n is a count
	t := &pairTable{keys: make([]uint64, size), values: make([]uint64, size), shift: uint(64 - bits.Len(uint(size-1)))} // #nosec G115
	for i := range t.keys {
		t.keys[i] = noPair
	}
	return t
}

func (t *pairTable) slot(key uint64) int {
	i := int((key * 0x9E3779B97F4A7C15) >> t.shift) // #nosec G115 -- fewer than 63 bits are left
	for t.keys[i] != key && t.keys[i] != noPair {
		i = (i + 1) & (len(t.keys) - 1)
	}
	return i
}

// add keeps the first of several merges of one pair.
func (t *pairTable) add(left, right int32, priority uint32, merged int32) {
	key := pairKey(left, right)
	if i := t.slot(key); t.keys[i] == noPair {
		t.keys[i], t.values[i] = key, uint64(priority)<<32|uint64(uint32(merged)) // #nosec G115
	}
}

// get returns priority<<32 | merged symbol, or noPair.
func (t *pairTable) get(left, right int32) uint64 {
	key := pairKey(left, right)
	if i := t.slot(key); t.keys[i] == key {
		return t.values[i]
	}
	return noPair
}

func pairKey(left, right int32) uint64 {
	return uint64(uint32(left))<<32 | uint64(uint32(right)) // #nosec G115 -- symbols are not negative
}

// shortWord is up to where looking at all pairs beats a heap.
const shortWord = 48

// merge merges sym in place until no pair of neighbours merges any more, always the pair of
// lowest priority first and the leftmost among equals, and returns what is left.
func (t *pairTable) merge(sym []int32, st *state) []int32 {
	switch {
	case len(sym) < 2:
		return sym
	case len(sym) > shortWord:
		return t.mergeLong(sym, st)
	}
	var pair [shortWord]uint64 // pair[i] merges sym[i] and sym[i+1]
	n := len(sym)
	for i := range n - 1 {
		pair[i] = t.get(sym[i], sym[i+1])
	}
	for n > 1 {
		best, at := uint64(noPair), -1
		for i, p := range pair[:n-1] {
			// A difference in the lower half, the symbol, must not decide: leftmost wins.
			if p>>32 < best>>32 {
				best, at = p, i
			}
		}
		if at < 0 {
			break
		}
		sym[at] = int32(uint32(best)) // #nosec G115 -- the lower half is a symbol
		copy(sym[at+1:n-1], sym[at+2:n])
		copy(pair[at:n-2], pair[at+1:n-1])
		n--
		if at > 0 {
			pair[at-1] = t.get(sym[at-1], sym[at])
		}
		if at < n-1 {
			pair[at] = t.get(sym[at], sym[at+1])
		}
	}
	return sym[:n]
}

// mergeLong is merge for long words: a heap of priority<<32 | position and a linked list. Entries
// grow stale when a neighbour merges away, which shows in the pair's priority when they come up.
func (t *pairTable) mergeLong(sym []int32, st *state) []int32 {
	n := len(sym)
	next, prev := grow(&st.next, n), grow(&st.prev, n)
	h := heap{st.heap[:0]}
	push := func(i int32) {
		if j := next[i]; j >= 0 {
			if p := t.get(sym[i], sym[j]); p != noPair {
				h.push(p&^math.MaxUint32 | uint64(uint32(i))) // #nosec G115 -- positions are not negative
			}
		}
	}
	for i := range sym {
		next[i], prev[i] = int32(i+1), int32(i-1) // #nosec G115 -- callers cut text below 2 GiB
	}
	next[n-1] = -1
	for i := range sym {
		push(int32(i)) // #nosec G115
	}
	for len(h.a) > 0 {
		e := h.pop()
		i := int32(uint32(e)) // #nosec G115
		if sym[i] < 0 || next[i] < 0 {
			continue
		}
		j := next[i]
		p := t.get(sym[i], sym[j])
		if p>>32 != e>>32 {
			continue
		}
		sym[i], sym[j] = int32(uint32(p)), -1 // #nosec G115
		if next[i] = next[j]; next[i] >= 0 {
			prev[next[i]] = i
		}
		push(i)
		if prev[i] >= 0 {
			push(prev[i])
		}
	}
	st.heap = h.a
	out := sym[:0]
	for i := int32(0); i >= 0; i = next[i] {
		out = append(out, sym[i])
	}
	return out
}

func grow(b *[]int32, n int) []int32 {
	if cap(*b) < n {
		*b = make([]int32, n)
	}
	return (*b)[:n]
}

// heap is a binary min-heap of plain numbers.
type heap struct{ a []uint64 }

func (h *heap) push(x uint64) {
	h.a = append(h.a, x)
	i := len(h.a) - 1
	for i > 0 && h.a[(i-1)/2] > x {
		h.a[i] = h.a[(i-1)/2]
		i = (i - 1) / 2
	}
	h.a[i] = x
}

func (h *heap) pop() uint64 {
	top := h.a[0]
	n := len(h.a) - 1
	x := h.a[n]
	h.a = h.a[:n]
	for i := 0; n > 0; {
		c := 2*i + 1
		if c+1 < n && h.a[c+1] < h.a[c] {
			c++
		}
		if c >= n || h.a[c] >= x {
			h.a[i] = x
			break
		}
		h.a[i] = h.a[c]
		i = c
	}
	return top
}

// pairsOfMerges builds the table of a merge list: earlier goes first.
func pairsOfMerges(merges [][2]string, ids map[string]int32) (*pairTable, error) {
	t := newPairTable(len(merges))
	for i, m := range merges {
		left, ok1 := ids[m[0]]
		right, ok2 := ids[m[1]]
		merged, ok3 := ids[m[0]+m[1]]
		if !ok1 || !ok2 || !ok3 {
			return nil, fmt.Errorf("%w: merge %d (%q, %q) needs a token that is not there", ErrMalformed, i, m[0], m[1])
		}
		t.add(left, right, uint32(i), merged) // #nosec G115 -- fewer merges than 2^32
	}
	return t, nil
}

// Real SentencePiece tokens stay below 100 bytes, and a vocabulary of 256,000 has 1.3 million ways
// to split one. The limits keep a hostile file from costing more than its size suggests.
const maxPiece, maxSplits = 512, 1 << 23

// pairsOfScores builds the table of SentencePiece: any two symbols merge when together they spell
// a token, the best score first. A character that is no token itself can still be half of one; it
// gets a symbol above the token ids, and chars lists those.
func (s *Spec) pairsOfScores(ids map[string]int32) (t *pairTable, chars map[rune]int32, err error) {
	next := int32(len(s.Tokens)) // #nosec G115 -- Check bounds the vocabulary
	chars = make(map[rune]int32)
	symbol := func(p string) int32 {
		if id, ok := ids[p]; ok && s.mergeable(int(id)) {
			return id
		}
		r, _ := utf8.DecodeRuneInString(p)
		if _, ok := chars[r]; !ok {
			chars[r] = next
			next++
		}
		return chars[r]
	}
	var splits [][3]int32 // left, right, whole
	var scores []float32
	for id, tok := range s.Tokens {
		if !s.mergeable(id) || utf8.RuneCountInString(tok) < 2 {
			continue
		}
		if len(tok) > maxPiece {
			return nil, nil, fmt.Errorf("%w: token %d has %d bytes, more than %d", ErrUnsupported, id, len(tok), maxPiece)
		}
		if s.Scores[id] != s.Scores[id] {
			return nil, nil, fmt.Errorf("%w: the score of token %d is not a number", ErrMalformed, id)
		}
		scores = append(scores, s.Scores[id])
		for i := range tok {
			if i > 0 && s.symbol(tok[:i], ids) && s.symbol(tok[i:], ids) {
				splits = append(splits, [3]int32{symbol(tok[:i]), symbol(tok[i:]), int32(id)}) // #nosec G115
			}
		}
		if len(splits) > maxSplits {
			return nil, nil, fmt.Errorf("%w: more than %d ways to merge tokens", ErrUnsupported, maxSplits)
		}
	}
	slices.SortFunc(scores, func(a, b float32) int { return cmp.Compare(b, a) })
	scores = slices.Compact(scores)
	priority := make(map[float32]uint32, len(scores))
	for i, x := range scores {
		priority[x] = uint32(i) // #nosec G115
	}
	t = newPairTable(len(splits))
	for _, sp := range splits {
		t.add(sp[0], sp[1], priority[s.Scores[sp[2]]], sp[2])
	}
	return t, chars, nil
}

// mergeable says whether plain text may become token id by merging. SentencePiece keeps control,
// unknown and byte tokens apart, so that text cannot forge them.
func (s *Spec) mergeable(id int) bool {
	switch s.Types[id] {
	case Control, Unknown, Byte:
		return false
	}
	return true
}
