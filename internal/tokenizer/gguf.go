package tokenizer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// KV is one key of GGUF metadata. Value is a string, bool, uint32, []string, []float32, []int32 or []uint8.
type KV struct {
	Key   string
	Value any
}

const prefixGGUF = "tokenizer.ggml."

// namesGGUF are the ids of Named, in the order they are written.
var namesGGUF = []string{"fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"}

// GGUF returns the metadata of s for a GGUF file, in the order of llama.cpp's converter. It
// refuses, with ErrInexact or ErrUnsupported, a tokenizer that llama.cpp would run differently;
// GGUFNotes tells what differs in small ways that every converted model shares.
func (s *Spec) GGUF() ([]KV, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	var kvs []KV
	add := func(key string, value any) { kvs = append(kvs, KV{prefixGGUF + key, value}) }
	types := make([]int32, len(s.Types))
	for i, t := range s.Types {
		types[i] = int32(t)
	}
	switch s.Model {
	case WordPiece, Unigram:
		if err := s.piecesForGGUF(add, types); err != nil {
			return nil, err
		}
	case BPE:
		pre, err := s.preForGGUF()
		if err != nil {
			return nil, err
		}
		merges := make([]string, len(s.Merges))
		for i, m := range s.Merges {
			merges[i] = m[0] + blank + m[1]
		}
		add("model", "gpt2")
		add("pre", pre)
		add("tokens", slices.Clone(s.Tokens))
		add("token_type", types)
		add("merges", merges)
	default:
		scores, err := s.scoresForGGUF()
		if err != nil {
			return nil, err
		}
		tokens := slices.Clone(s.Tokens)
		for i, t := range s.Types {
			if t == UserDefined { // llama.cpp looks for these in text that still has its spaces
				tokens[i] = strings.ReplaceAll(tokens[i], underscore, blank)
			}
		}
		add("model", "llama")
		add("pre", "default")
		add("tokens", tokens)
		add("scores", scores)
		add("token_type", types)
	}
	for _, sp := range s.specials() {
		if *sp.at >= 0 {
			add(sp.gguf+"_token_id", uint32(*sp.at)) // #nosec G115 -- Check bounds it
		}
	}
	for _, name := range namesGGUF {
		if id, ok := s.Named[name]; ok {
			add(name+"_token_id", uint32(id)) // #nosec G115
		}
	}
	// Always said, since the defaults depend on the model and on the pre-tokenizer's name.
	add("add_bos_token", s.AddBOS)
	add("add_eos_token", s.AddEOS)
	add("add_space_prefix", s.Prefix != PrefixNone)
	if len(s.NamedTemplates) > 0 {
		names := slices.Sorted(maps.Keys(s.NamedTemplates))
		kvs = append(kvs, KV{"tokenizer.chat_templates", names})
		for _, name := range names {
			kvs = append(kvs, KV{"tokenizer.chat_template." + name, s.NamedTemplates[name]})
		}
	}
	if s.ChatTemplate != "" {
		kvs = append(kvs, KV{"tokenizer.chat_template", s.ChatTemplate})
	}
	return kvs, nil
}

// GGUFNotes lists what a GGUF file cannot say about s, in words for the user. They concern unusual
// text only, and hold for every converter.
func (s *Spec) GGUFNotes() []string {
	var notes []string
	if s.Normalize != "" {
		notes = append(notes, "the original normalizes text to "+s.Normalize+"; llama.cpp takes it as it is")
	}
	if s.Model == SPM && (s.Prefix == PrefixMissing || s.Prefix == PrefixFirst) {
		notes = append(notes, "llama.cpp puts a space before all text, the original only before some")
	}
	if s.TrimSpaces && s.Model == SPM {
		notes = append(notes, "the original drops extra spaces; llama.cpp keeps them")
	}
	if row := rowOf(preName(s.Splits)); s.Model == BPE && row != nil && row.note != "" {
		notes = append(notes, row.note)
	}
	notes = append(notes, s.piecesNotes()...)
	strip := 0
	for _, a := range s.Added {
		if a.LStrip || a.RStrip || a.SingleWord {
			strip++
		}
	}
	if strip > 0 {
		notes = append(notes, fmt.Sprintf("%d added tokens take spaces or stand alone; llama.cpp matches them anywhere, spaces kept", strip))
	}
	return notes
}

// preForGGUF chooses the name of the word splitting.
func (s *Spec) preForGGUF() (string, error) {
	if s.Prefix != PrefixNone {
		return "", fmt.Errorf("%w: GGUF has no space before byte-level text", ErrInexact)
	}
	pre := s.Pre
	row := rowOf(pre)
	if row == nil || !samePatterns(row.splits, s.Splits) {
		if pre = preName(s.Splits); pre == "" {
			return "", fmt.Errorf("%w: llama.cpp has no name for this way to split words", ErrInexact)
		}
		row = rowOf(pre)
	}
	if row.ignoreMerges == s.IgnoreMerges {
		return pre, nil
	}
	reached, err := s.mergesReachAll()
	if err != nil || reached { // if so, ignoring merges makes no difference
		return pre, err
	}
	for _, row := range preRows {
		if row.ignoreMerges == s.IgnoreMerges && samePatterns(row.splits, s.Splits) {
			return row.names[0], nil
		}
	}
	return "", fmt.Errorf("%w: llama.cpp's %q treats words that are tokens differently (ignore_merges)", ErrInexact, pre)
}

// mergesReachAll says whether the merges make every ordinary token out of its bytes.
func (s *Spec) mergesReachAll() (bool, error) {
	plain := *s
	plain.IgnoreMerges = false
	t, err := New(&plain)
	if err != nil {
		return false, err
	}
	st := &state{cache: map[string]cached{}}
	for i, typ := range s.Types {
		if typ != Normal {
			continue
		}
		if st.out = st.out[:0]; t.text[i] != "" {
			t.word(t.text[i], st)
		}
		if len(st.out) != 1 || int(st.out[0]) != i {
			return false, nil
		}
	}
	return true, nil
}

// scoresForGGUF returns the scores, or finds some that make llama.cpp merge as the merge list says.
func (s *Spec) scoresForGGUF() ([]float32, error) {
	for b := range 256 {
		if !s.ByteFallback || !slices.Contains(s.Tokens, byteTokenName(byte(b))) {
			return nil, fmt.Errorf("%w: llama.cpp needs the 256 byte tokens", ErrInexact)
		}
	}
	if s.Merges == nil {
		return slices.Clone(s.Scores), nil
	}
	order, err := s.mergeOrder()
	if err != nil {
		return nil, err
	}
	scores := make([]float32, len(s.Tokens))
	first := slices.Index(s.Types, Normal)
	if slices.IsSorted(order) { // as SentencePiece numbers its pieces, so these are the original scores
		for i := range scores {
			if s.Types[i] == Normal {
				scores[i] = float32(first - i)
			}
		}
		return scores, nil
	}
	for i := range scores {
		if s.Types[i] == Normal || s.Types[i] == UserDefined {
			scores[i] = -float32(len(order))
		}
	}
	for rank, id := range order {
		scores[id] = -float32(rank)
	}
	return scores, nil
}

// mergeOrder lists the tokens that merges make, best first. It fails unless scores can say the
// same: the merges of one token stand together, and every way to split a token is there.
func (s *Spec) mergeOrder() ([]int, error) {
	if len(s.Tokens) > 1<<24 {
		return nil, fmt.Errorf("%w: more tokens than float32 scores can order", ErrInexact)
	}
	ids := make(map[string]int32, len(s.Tokens))
	for i, tok := range s.Tokens {
		ids[tok] = int32(i) // #nosec G115
	}
	var order []int
	seen := map[int]bool{}
	listed := make(map[[2]string]bool, len(s.Merges))
	for _, m := range s.Merges {
		id32, ok := ids[m[0]+m[1]]
		id := int(id32)
		switch {
		case !ok || !s.mergeable(id):
			return nil, fmt.Errorf("%w: merge (%q, %q) makes no ordinary token", ErrInexact, m[0], m[1])
		case !seen[id]:
			seen[id] = true
			order = append(order, id)
		case order[len(order)-1] != id:
			return nil, fmt.Errorf("%w: the merges that make %q have different ranks, scores cannot", ErrInexact, m[0]+m[1])
		}
		listed[m] = true
	}
	for id, tok := range s.Tokens {
		if s.Types[id] != Normal || len(tok) > maxPiece {
			continue
		}
		for i := range tok {
			if i == 0 {
				continue
			}
			l, r := tok[:i], tok[i:]
			if s.merged(l, ids) && s.merged(r, ids) && !listed[[2]string{l, r}] {
				return nil, fmt.Errorf("%w: llama.cpp would merge %q and %q, which the merge list does not", ErrInexact, l, r)
			}
		}
	}
	return order, nil
}

// merged is symbol without the user-defined tokens, which are cut out before anything merges.
func (s *Spec) merged(p string, ids map[string]int32) bool {
	id, ok := ids[p]
	return s.symbol(p, ids) && !(ok && s.Types[id] == UserDefined)
}

// symbol says whether p can be a symbol while llama.cpp merges: a token or one character.
func (s *Spec) symbol(p string, ids map[string]int32) bool {
	if id, ok := ids[p]; ok && s.mergeable(int(id)) {
		return true
	}
	r, w := utf8.DecodeRuneInString(p)
	return w == len(p) && !(r == utf8.RuneError && w == 1)
}
