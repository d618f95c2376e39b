package tokenizer

import (
	"fmt"
	"math"
	"slices"
)

// FromGGUF reads the tokenizer of a GGUF file; get gives the value of a metadata key: string,
// bool, any integer or float type, []string, []float32, []int32 and the like. What the file does
// not say is as llama.cpp takes it. The same goes for what GGUF cannot say: there is no Unicode
// normalization, whatever the original tokenizer did.
func FromGGUF(get func(key string) (any, bool)) (*Spec, error) {
	g := reader{get: get}
	model := g.text(prefixGGUF + "model")
	var s *Spec
	switch model {
	case "gpt2":
		s = NewSpec(BPE)
		if err := s.readBPE(&g); err != nil {
			return nil, err
		}
	case "llama":
		s = NewSpec(SPM)
		s.BOS, s.EOS, s.UNK = 1, 2, 0
		s.AddBOS, s.ByteFallback, s.Prefix = true, true, PrefixAlways
	case "bert":
		s = NewSpec(WordPiece)
		s.readBert(&g)
	case "t5":
		s = NewSpec(Unigram)
		s.readT5(&g)
	case "":
		return nil, fmt.Errorf("%w: there is no %smodel", ErrMalformed, prefixGGUF)
	default:
		return nil, fmt.Errorf("%w: GGUF tokenizer model %q; gpt2, llama, bert and t5 are", ErrUnsupported, model)
	}
	s.Tokens = g.texts(prefixGGUF + "tokens")
	n := len(s.Tokens)
	for i, tok := range s.Tokens {
		if tok == "" { // llama.cpp's name for it
			s.Tokens[i] = fmt.Sprintf("[EMPTY_%d]", i)
		}
	}
	if s.escaped() {
		if s.Scores = g.floats(prefixGGUF + "scores"); s.Scores == nil && n > 0 {
			return nil, fmt.Errorf("%w: there are no %sscores", ErrMalformed, prefixGGUF)
		}
	}
	types := g.ints(prefixGGUF + "token_type")
	if len(types) != n && types != nil || s.Scores != nil && len(s.Scores) != n {
		return nil, fmt.Errorf("%w: %d tokens, %d token types, %d scores", ErrMalformed, n, len(types), len(s.Scores))
	}
	s.Types = make([]TokenType, n)
	for i := range s.Types {
		s.Types[i] = Normal
		if types != nil {
			s.Types[i] = TokenType(types[i])
		}
	}
	for _, sp := range s.specials() {
		if id, ok := g.id(prefixGGUF+sp.gguf+"_token_id", n); ok {
			*sp.at = id
		} else if *sp.at >= n {
			*sp.at = -1
		}
	}
	for _, name := range namesGGUF {
		if id, ok := g.id(prefixGGUF+name+"_token_id", n); ok {
			if s.Named == nil {
				s.Named = map[string]int{}
			}
			s.Named[name] = id
		}
	}
	g.flag(prefixGGUF+"add_bos_token", &s.AddBOS)
	g.flag(prefixGGUF+"add_eos_token", &s.AddEOS)
	if s.Model == WordPiece && s.EOS < 0 { // llama.cpp ends such texts with the separator, whatever it is called
		s.EOS = s.SEP
	}
	s.AddBOS, s.AddEOS = s.AddBOS && s.BOS >= 0, s.AddEOS && s.EOS >= 0
	prefix := s.Prefix != PrefixNone
	if g.flag(prefixGGUF+"add_space_prefix", &prefix); prefix && s.escaped() {
		s.Prefix = PrefixAlways
	} else {
		s.Prefix = PrefixNone // llama.cpp does not prefix byte-level text either way
	}
	s.readTemplatesGGUF(&g)
	if g.err != nil {
		return nil, g.err
	}
	if s.Model == WordPiece {
		s.wordsOfGGUF()
	}
	for i, typ := range s.Types {
		end := slices.Contains(endNames, s.Tokens[i])
		switch {
		case typ == Control || typ == Unknown || end && typ == Normal:
			s.Added = append(s.Added, Added{ID: i, Content: s.Tokens[i], Special: true})
		case typ == UserDefined:
			s.Added = append(s.Added, Added{ID: i, Content: s.Tokens[i], Special: end})
		}
	}
	s.pairOfGGUF()
	return s, s.Check()
}

func (s *Spec) readBPE(g *reader) error {
	if s.Pre = g.text(prefixGGUF + "pre"); s.Pre == "" {
		s.Pre = "default"
	}
	row := rowOf(s.Pre)
	if row == nil {
		return fmt.Errorf("%w: pre-tokenizer %q", ErrUnsupported, s.Pre)
	}
	s.Splits, s.IgnoreMerges, s.AddBOS = row.splits, row.ignoreMerges, row.addBOS
	list := g.texts(prefixGGUF + "merges")
	s.Merges = make([][2]string, len(list))
	for i, m := range list {
		pair, ok := parseMerge(m)
		if !ok {
			return fmt.Errorf("%w: merge %d, %q, is not two tokens", ErrMalformed, i, m)
		}
		s.Merges[i] = pair
	}
	return nil
}

func (s *Spec) readTemplatesGGUF(g *reader) {
	const key = "tokenizer.chat_template"
	s.ChatTemplate = g.text(key)
	for _, name := range g.texts(key + "s") {
		if t := g.text(key + "." + name); t != "" {
			if s.NamedTemplates == nil {
				s.NamedTemplates = map[string]string{}
			}
			s.NamedTemplates[name] = t
		}
	}
}

// reader takes typed values out of metadata and keeps the first error.
type reader struct {
	get func(string) (any, bool)
	err error
}

func (g *reader) fail(key string, v any) {
	g.err = firstError(g.err, fmt.Errorf("%w: %s has a value of type %T", ErrMalformed, key, v))
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (g *reader) text(key string) string {
	v, ok := g.get(key)
	s, isText := v.(string)
	if ok && !isText {
		g.fail(key, v)
	}
	return s
}

func (g *reader) texts(key string) []string {
	v, ok := g.get(key)
	s, isTexts := v.([]string)
	if ok && !isTexts {
		g.fail(key, v)
	}
	return slices.Clone(s)
}

func (g *reader) flag(key string, to *bool) {
	v, ok := g.get(key)
	b, isBool := v.(bool)
	switch {
	case ok && !isBool:
		g.fail(key, v)
	case ok:
		*to = b
	}
}

// id reads the id of a special token; one outside the vocabulary does not count.
func (g *reader) id(key string, n int) (int, bool) {
	v, ok := g.get(key)
	if !ok {
		return 0, false
	}
	id, ok := toInt(v)
	if !ok {
		g.fail(key, v)
	}
	return int(id), ok && id >= 0 && id < int64(n)
}

func (g *reader) floats(key string) []float32 {
	v, _ := g.get(key)
	switch x := v.(type) {
	case []float32:
		return slices.Clone(x)
	case []float64:
		return convert(x, func(f float64) float32 { return float32(f) })
	case []int32:
		return convert(x, func(i int32) float32 { return float32(i) })
	case nil:
	default:
		g.fail(key, v)
	}
	return nil
}

func (g *reader) ints(key string) []int32 {
	v, _ := g.get(key)
	switch x := v.(type) {
	case []int32:
		return slices.Clone(x)
	case []uint32:
		return convert(x, func(u uint32) int32 { return int32(min(u, math.MaxInt32)) }) // #nosec G115
	case nil:
	default:
		g.fail(key, v)
	}
	return nil
}

func convert[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, x := range in {
		out[i] = f(x)
	}
	return out
}

func toInt(v any) (int64, bool) {
	switch x := v.(type) {
	case uint8:
		return int64(x), true
	case int8:
		return int64(x), true
	case uint16:
		return int64(x), true
	case int16:
		return int64(x), true
	case uint32:
		return int64(x), true
	case int32:
		return int64(x), true
	case uint64:
		return int64(min(x, math.MaxInt64)), true // #nosec G115
	case int64:
		return x, true
	case int:
		return int64(x), true
	}
	return 0, false
}
