package tokenizer

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Tokenizer encodes and decodes. It is immutable and safe to use from several goroutines.
type Tokenizer struct {
	spec  *Spec
	ids   map[string]int32 // token as stored -> id
	text  []string         // id -> the bytes it decodes to
	eog   []int
	pairs *pairTable

	split    *splitter        // BPE
	bytes    [256]int32       // symbol of each byte (BPE) or its byte token (SPM); -1 when there is none
	ascii    [128]int32       // SPM: symbol of each ASCII character
	chars    map[rune]int32   // SPM: symbol of the others
	bare     map[int32]rune   // SPM: characters that are symbols but no tokens
	whole    map[string]int32 // with IgnoreMerges: the bytes of a word -> its token
	inner    map[string]int32 // WordPiece: what continues words
	longest  int              // WordPiece, Unigram: bytes of the longest token
	charsmap *charsmap        // Unigram
	unknown  float64          // Unigram: score of an unknown character
	crossing bool             // Unigram: some tokens have ▁ after another character
	words    bool             // SPM: no token has ▁ after another character, so every ▁ starts a word

	form              norm.Form
	raw, normalized   *matcher // all added tokens, by where they are matched
	userRaw, userNorm *matcher // without the control tokens
	pool              sync.Pool
}

// maxText is how much text is encoded at once; positions within it fit 32 bits. Longer text is
// refused nowhere: Encode cuts it at a line end, which no word pattern that is published crosses.
const maxText = 1 << 30

const blank, underscore = " ", "▁"

// New prepares s, which must not change afterwards.
func New(s *Spec) (*Tokenizer, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	t := &Tokenizer{spec: s, ids: make(map[string]int32, len(s.Tokens)), text: make([]string, len(s.Tokens))}
	for i, tok := range s.Tokens {
		t.ids[tok] = int32(i) // #nosec G115 -- Check bounds the vocabulary
		t.text[i] = s.tokenText(i)
	}
	t.pool.New = func() any { return &state{cache: map[string]cached{}} }
	var err error
	switch s.Model {
	case BPE:
		err = t.prepareBPE()
	case SPM:
		err = t.prepareSPM()
	case WordPiece:
		t.prepareWords()
	case Unigram:
		err = t.prepareUnigram()
	}
	if err != nil {
		return nil, err
	}
	t.form = forms[s.Normalize]
	t.raw, t.normalized, t.userRaw, t.userNorm = newMatcher(), newMatcher(), newMatcher(), newMatcher()
	for i := range s.Added {
		a := &s.Added[i]
		all, user, text := t.raw, t.userRaw, a.Content
		if a.Normalized {
			all, user, text = t.normalized, t.userNorm, t.normalize(a.Content)
			if s.Model != WordPiece { // the token stands for all it was matched in, a space in front included
				t.text[a.ID] = strings.ReplaceAll(text, underscore, blank)
			}
		}
		all.add(text, a)
		if !a.Special {
			user.add(text, a)
		}
	}
	t.eog = s.endTokens()
	return t, nil
}

var forms = map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}

// tokenText gives the bytes that token id stands for.
func (s *Spec) tokenText(id int) string {
	tok := s.Tokens[id]
	if s.Model == WordPiece { // special tokens, too, are words
		return s.wordText(tok)
	}
	switch s.Types[id] {
	case Control, UserDefined, Unknown:
		return tok
	case Byte:
		if b, ok := byteOfToken(tok); ok {
			return string([]byte{b})
		}
		return tok
	}
	if s.escaped() {
		return strings.ReplaceAll(tok, underscore, blank)
	}
	if raw, ok := fromByteLevel(tok); ok {
		return string(raw)
	}
	return tok
}

func (t *Tokenizer) prepareBPE() (err error) {
	if t.pairs, err = pairsOfMerges(t.spec.Merges, t.ids); err != nil {
		return err
	}
	if t.split, err = newSplitter(t.spec.Splits); err != nil {
		return err
	}
	for b := range t.bytes {
		t.bytes[b] = t.id(string(byteToRune[b]))
	}
	if t.spec.IgnoreMerges {
		t.whole = make(map[string]int32, len(t.text))
		for i, typ := range t.spec.Types {
			if typ == Normal {
				t.whole[t.text[i]] = int32(i) // #nosec G115
			}
		}
	}
	return nil
}

func (t *Tokenizer) prepareSPM() (err error) {
	s := t.spec
	t.chars = map[rune]int32{}
	var bare map[rune]int32
	if s.Merges != nil {
		t.pairs, err = pairsOfMerges(s.Merges, t.ids)
	} else {
		t.pairs, bare, err = s.pairsOfScores(t.ids)
	}
	if err != nil {
		return err
	}
	maps.Copy(t.chars, bare)
	t.bare = make(map[int32]rune, len(bare))
	for r, sym := range bare {
		t.bare[sym] = r
	}
	t.words = true
	for i, tok := range s.Tokens {
		if !s.mergeable(i) {
			continue
		}
		if r, w := utf8.DecodeRuneInString(tok); w == len(tok) && !(r == utf8.RuneError && w == 1) {
			t.chars[r] = int32(i) // #nosec G115
		}
		if strings.Contains(strings.TrimLeft(tok, underscore), underscore) {
			t.words = false
		}
	}
	for c := range t.ascii {
		t.ascii[c] = -1
		if sym, ok := t.chars[rune(c)]; ok { // #nosec G115
			t.ascii[c] = sym
		}
	}
	for b := range t.bytes {
		t.bytes[b] = -1
		if s.ByteFallback {
			t.bytes[b] = t.id(byteTokenName(byte(b))) // #nosec G115
		}
	}
	return nil
}

func (t *Tokenizer) id(token string) int32 {
	if id, ok := t.ids[token]; ok {
		return id
	}
	return -1
}

// EncodeOptions say what Encode does beyond plain text.
type EncodeOptions struct {
	// AddSpecial adds the start and end tokens that the tokenizer asks for.
	AddSpecial bool
	// AddStart adds the start token alone, if the tokenizer asks for one: for texts that are cut into
	// chunks, which llama.cpp's tools tokenize with it in front of the first.
	AddStart bool
	// ParseSpecial lets control tokens be written in the text ("<|im_end|>"), as Hugging Face
	// always does. Without it they are plain text; user-defined tokens are matched either way.
	ParseSpecial bool
	// Inner says that other text stands before this one: what is put in front of a text, at its very beginning only,
	// is not put here.
	Inner bool
	// Max is the most tokens, special ones included; what is beyond them at the end is left out. 0: all.
	Max int
}

// Encode returns the ids of text. Bytes that are not UTF-8 become U+FFFD each for BPE, as in
// llama.cpp, and byte tokens for SPM. The only error is ErrTooSlow, of a tokenizer whose file brings
// a pattern of its own for words.
func (t *Tokenizer) Encode(text string, opt EncodeOptions) ([]int32, error) {
	s := t.spec
	ids := make([]int32, 0, len(text)/3+2)
	if (opt.AddSpecial || opt.AddStart) && s.AddBOS {
		ids = append(ids, int32(s.BOS)) // #nosec G115 -- Check bounds it
	}
	if s.Model != SPM {
		text = replaceInvalid(text)
	}
	if s.TrimSpaces && s.Model == SPM {
		text = trimSpaces(text)
	}
	raw, normalized := t.userRaw, t.userNorm
	if opt.ParseSpecial {
		raw, normalized = t.raw, t.normalized
	}
	st := t.pool.Get().(*state)
	st.out = ids
	var err error
	plain := func(text string, at int) {
		if opt.Inner {
			at++
		}
		if err == nil {
			err = t.plain(text, at, st)
		}
	}
	token := func(id int) { st.out = append(st.out, int32(id)) } // #nosec G115
	raw.split(text, func(text string, at int) {
		normalized.split(t.normalize(text), func(text string, inner int) {
			for len(text) > maxText {
				cut := strings.LastIndexByte(text[:maxText], '\n') + 1
				if cut == 0 {
					cut = maxText
				}
				plain(text[:cut], at+inner)
				text, inner = text[cut:], inner+cut
			}
			plain(text, at+inner)
		}, token)
	}, token)
	ids, st.out = st.out, nil
	t.pool.Put(st)
	if err != nil {
		return nil, err
	}
	end := opt.AddSpecial && s.AddEOS
	if keep := opt.most(end); keep < len(ids) {
		ids = ids[:keep]
	}
	if end {
		ids = append(ids, int32(s.EOS)) // #nosec G115
	}
	return ids, nil
}

// most is how many tokens there may be before the end token.
func (o EncodeOptions) most(end bool) int {
	switch {
	case o.Max <= 0:
		return math.MaxInt
	case end:
		return o.Max - 1
	}
	return o.Max
}

// EncodePair returns the ids of two texts, put together as the tokenizer asks for, and the type
// (segment) of each: what models read that compare texts.
func (t *Tokenizer) EncodePair(first, second string, opt EncodeOptions) (ids, types []int32, err error) {
	s := t.spec
	if s.Pair == nil {
		return nil, nil, fmt.Errorf("%w: it does not say how two texts are put together", ErrUnsupported)
	}
	opt.AddSpecial, opt.AddStart = false, false
	room := opt.Max
	opt.Max = 0
	var texts [2][]int32
	for i, text := range []string{first, second} {
		if texts[i], err = t.Encode(text, opt); err != nil {
			return nil, nil, err
		}
	}
	if room > 0 { // the longer one gives way, the second of equals, as in tokenizers ("longest first")
		for over := len(texts[0]) + len(texts[1]) + len(s.Pair) - 2 - room; over > 0; over-- {
			i := 1
			if len(texts[0]) > len(texts[1]) {
				i = 0
			}
			if len(texts[i]) == 0 {
				break
			}
			texts[i] = texts[i][:len(texts[i])-1]
		}
	}
	for _, p := range s.Pair {
		part := []int32{int32(p.ID)} // #nosec G115 -- Check bounds it
		switch p.ID {
		case TextA:
			part = texts[0]
		case TextB:
			part = texts[1]
		}
		ids = append(ids, part...)
		for range part {
			types = append(types, int32(p.Type)) // #nosec G115
		}
	}
	return ids, types, nil
}

// normalize is what happens to text before normalized tokens are looked for in it.
func (t *Tokenizer) normalize(text string) string {
	switch t.spec.Model {
	case WordPiece:
		return t.spec.Words.normalize(text)
	case Unigram:
		return t.normalizeUnigram(text)
	}
	if t.spec.Normalize != "" {
		text = t.form.String(text)
	}
	if t.spec.Prefix == PrefixAlways && text != "" {
		text = blank + text
	}
	if t.spec.Model == SPM {
		text = strings.ReplaceAll(text, blank, underscore)
	}
	return text
}

// plain encodes text that holds no added tokens; at is its position, for PrefixFirst.
func (t *Tokenizer) plain(text string, at int, st *state) error {
	switch t.spec.Model {
	case WordPiece:
		t.plainWords(text, st)
		return nil
	case Unigram:
		t.plainUnigram(text, at, st)
		return nil
	}
	mark := blank
	if t.spec.Model == SPM {
		mark = underscore
	}
	if (t.spec.Prefix == PrefixMissing || t.spec.Prefix == PrefixFirst && at == 0) && !strings.HasPrefix(text, mark) {
		text = mark + text
	}
	switch {
	case t.spec.Model == SPM:
		t.plainSPM(text, st)
	case t.split.scan != nil:
		for i := 0; i < len(text); {
			j := t.split.scan(text, i)
			t.word(text[i:j], st)
			i = j
		}
	default:
		words, err := t.split.words(text)
		if err != nil {
			return err
		}
		for _, w := range words {
			t.word(w, st)
		}
	}
	return nil
}

// plainSPM cuts text before every run of ▁ when no merge can cross that place.
func (t *Tokenizer) plainSPM(text string, st *state) {
	if !t.words {
		t.word(text, st)
		return
	}
	for text != "" {
		rest := strings.TrimLeft(text, underscore)
		end := len(text)
		if i := strings.Index(rest, underscore); i >= 0 {
			end = len(text) - len(rest) + i
		}
		t.word(text[:end], st)
		text = text[end:]
	}
}

// state is the scratch space of one Encode call, kept for the next with the words it has seen.
type state struct {
	out, sym, next, prev []int32
	heap                 []uint64
	lattice              lattice
	cache                map[string]cached
	arena                []int32
}

// cached is a stretch of the arena.
type cached struct{ at, n uint32 }

// Words up to maxCachedWord bytes are remembered, at most maxCachedWords of them at a time.
const maxCachedWord, maxCachedWords = 48, 1 << 15

// word appends the ids of one word.
func (t *Tokenizer) word(w string, st *state) {
	if c, ok := st.cache[w]; ok {
		st.out = append(st.out, st.arena[c.at:c.at+c.n]...)
		return
	}
	start := len(st.out)
	if id, ok := t.whole[w]; ok {
		st.out = append(st.out, id)
	} else if t.spec.Model == WordPiece {
		st.out = t.pieces(st.out, w)
	} else if t.spec.Model == Unigram {
		st.out = t.viterbi(st.out, w, st)
	} else if t.spec.Model == BPE {
		st.sym = t.symbolsBPE(st.sym[:0], w)
		st.out = append(st.out, t.pairs.merge(st.sym, st)...)
	} else {
		st.sym = t.symbolsSPM(st.sym[:0], w)
		for _, sym := range t.pairs.merge(st.sym, st) {
			if int(sym) >= len(t.text) {
				st.out = t.fallback(st.out, string(t.bare[sym]), start)
			} else {
				st.out = append(st.out, sym)
			}
		}
	}
	if len(w) > maxCachedWord {
		return
	}
	if len(st.cache) >= maxCachedWords {
		clear(st.cache)
		st.arena = st.arena[:0]
	}
	at := len(st.arena)
	st.arena = append(st.arena, st.out[start:]...)
	st.cache[strings.Clone(w)] = cached{uint32(at), uint32(len(st.arena) - at)} // #nosec G115 -- both are bounded by the cache
}

func (t *Tokenizer) symbolsBPE(sym []int32, w string) []int32 {
	for i := range len(w) {
		id := t.bytes[w[i]]
		if id < 0 { // a vocabulary without this byte
			if id = int32(t.spec.UNK); id < 0 || t.spec.FuseUnknown && len(sym) > 0 && sym[len(sym)-1] == id { // #nosec G115
				continue
			}
		}
		sym = append(sym, id)
	}
	return sym
}

func (t *Tokenizer) symbolsSPM(sym []int32, w string) []int32 {
	for i := 0; i < len(w); {
		id, n := int32(-1), 1
		if w[i] < utf8.RuneSelf {
			id = t.ascii[w[i]]
		} else if r, size := utf8.DecodeRuneInString(w[i:]); size > 1 {
			n = size
			if known, ok := t.chars[r]; ok {
				id = known
			}
		}
		if id >= 0 {
			sym = append(sym, id)
		} else {
			sym = t.fallback(sym, w[i:i+n], 0)
		}
		i += n
	}
	return sym
}

// fallback appends the byte tokens of a character without a token of its own, else the unknown
// token. Unknown tokens fuse with those after out[start:].
func (t *Tokenizer) fallback(out []int32, char string, start int) []int32 {
	n := len(out)
	for i := range len(char) {
		b := t.bytes[char[i]]
		if b < 0 {
			out = out[:n]
			unk := int32(t.spec.UNK) // #nosec G115
			if unk < 0 || t.spec.FuseUnknown && n > start && out[n-1] == unk {
				return out
			}
			return append(out, unk)
		}
		out = append(out, b)
	}
	return out
}

// replaceInvalid puts U+FFFD for every byte that is not part of valid UTF-8.
func replaceInvalid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	out := make([]byte, 0, len(s)+16)
	for _, r := range s {
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

// trimSpaces drops spaces at both ends and keeps one of every run. SentencePiece looks for the
// spaces at the end when they are ▁ already, so that it drops real ▁ there too.
func trimSpaces(s string) string {
	s = strings.TrimRight(s, blank+underscore)
	return strings.Join(slices.DeleteFunc(strings.Split(s, blank), func(w string) bool { return w == "" }), blank)
}
