package corpus

// Sequences cuts tokens into stretches of n. bos, unless negative, takes the place of the first token of each, as in
// llama.cpp's tools; not of documents, which begin as they do, nor where all was given as token ids. Documents are packed one behind the other,
// so that stretches are full; a tail shorter than n is dropped, unless it is all there is. apart begins a sequence with
// every document: tails of documents stay, as shorter sequences.
func (t *Tokens) Sequences(n int, bos int32, apart bool) (out [][]int32) {
	take := func(lo, hi int) {
		s := append([]int32(nil), t.IDs[lo:hi]...)
		if bos >= 0 && !t.own[lo] && !t.Exact {
			s[0] = bos
		}
		out = append(out, s)
	}
	if !apart {
		for at := 0; at < len(t.IDs); at += n {
			if at+n > len(t.IDs) && at > 0 {
				break
			}
			take(at, min(at+n, len(t.IDs)))
		}
		return out
	}
	for i, lo := range t.Starts {
		end := len(t.IDs)
		if i+1 < len(t.Starts) {
			end = t.Starts[i+1]
		}
		for at := lo; at < end; at += n {
			if hi := min(at+n, end); hi-at >= 2 || end-lo < 2 { // one token says nothing about the next
				take(at, hi)
			}
		}
	}
	return out
}

// Coverage says how much of a vocabulary tokens show.
type Coverage struct {
	Distinct   int     // different tokens
	Vocabulary float64 // share of the vocabulary's entries
}

// Covers counts the different tokens.
func (t *Tokens) Covers(vocab int) Coverage {
	seen := t.seen(vocab)
	var c Coverage
	for _, s := range seen {
		if s {
			c.Distinct++
		}
	}
	c.Vocabulary = float64(c.Distinct) / float64(max(vocab, 1))
	return c
}

// Knows is the share of another text's tokens that occur in this one.
func (t *Tokens) Knows(other []int32, vocab int) float64 {
	seen, known := t.seen(vocab), 0
	for _, id := range other {
		if int(id) < len(seen) && seen[id] {
			known++
		}
	}
	return float64(known) / float64(max(len(other), 1))
}

func (t *Tokens) seen(vocab int) []bool {
	seen := make([]bool, vocab)
	for _, id := range t.IDs {
		if id >= 0 && int(id) < vocab {
			seen[id] = true
		}
	}
	return seen
}
