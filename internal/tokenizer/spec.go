package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Reasons that errors of this package wrap.
var (
	ErrUnsupported = errors.New("tokenizer is not supported")
	ErrMalformed   = errors.New("tokenizer is malformed")
	// ErrInexact: the container asked for cannot express this tokenizer, so that what reads the
	// file would give other ids.
	ErrInexact = errors.New("tokenizer cannot be written exactly")
	// ErrTooSlow: a pattern of the file takes more time than splitting text into words ever does.
	ErrTooSlow = errors.New("splitting text into words takes too long")
)

// Model is the family of a tokenizer.
type Model string

// The families.
const (
	BPE Model = "bpe" // byte-level, GGUF "gpt2"
	SPM Model = "spm" // SentencePiece BPE, GGUF "llama"

	WordPiece Model = "wordpiece" // BERT, GGUF "bert"
	Unigram   Model = "unigram"   // SentencePiece unigram (T5, XLM-RoBERTa), GGUF "t5"
)

// TokenType says what a token is for. The numbers are those of tokenizer.ggml.token_type.
type TokenType int32

// The types.
const (
	Undefined   TokenType = 0
	Normal      TokenType = 1
	Unknown     TokenType = 2 // stands for what cannot be encoded
	Control     TokenType = 3 // special: never made from plain text, prints as nothing
	UserDefined TokenType = 4 // added: always matched whole in text
	Unused      TokenType = 5 // a row of the embedding matrix without a token
	Byte        TokenType = 6 // "<0x0A>": one byte
)

// SpacePrefix says when a space is put before text.
type SpacePrefix uint8

// The schemes.
const (
	PrefixNone    SpacePrefix = iota
	PrefixAlways              // before every stretch of plain text (GGUF add_space_prefix, SentencePiece, normalizer Prepend)
	PrefixMissing             // as PrefixAlways, unless the stretch starts with a space (Metaspace "always", ByteLevel)
	PrefixFirst               // as PrefixMissing, but only at the very start of the text (Metaspace "first")
)

// Split is one step of word splitting: Pattern is a regular expression in the syntax of
// tokenizer.json (Oniguruma). Every match is a word, and so is every stretch between matches.
type Split struct {
	Pattern string
	// Removed drops the stretches between the matches. No published pattern leaves any; the flag
	// is kept because it comes back when the file is written.
	Removed bool
}

// Added is a token that is matched whole, before words are split.
type Added struct {
	ID         int
	Content    string // real text, never in the byte-level alphabet
	SingleWord bool   // only between non-word characters
	LStrip     bool   // takes the white space before it
	RStrip     bool   // takes the white space after it
	Normalized bool   // matched in the normalized text
	Special    bool   // control token
}

// Part is a piece of a template: a token, or one of the texts. Type is the token type (segment)
// that its tokens have.
type Part struct{ ID, Type int }

// TextA and TextB stand in a Part for the texts.
const (
	TextA = -1
	TextB = -2
)

// Spec is everything known about a tokenizer, free of its container. The ids are indexes of
// Tokens; an id of -1 means that there is none, so start from NewSpec and not from a zero Spec.
type Spec struct {
	Model  Model
	Pre    string  // llama.cpp's name of Splits ("gpt-2", "llama-bpe", "qwen2"); "" when it has none or for SPM
	Splits []Split // BPE: word splitting, applied one after the other
	// Tokens as GGUF stores them: byte-level alphabet for the ordinary ones of BPE, ▁ for the
	// spaces of SPM and Unigram, real text for control and user-defined ones. Those of WordPiece are
	// as in vocab.txt, "##ing", which GGUF spells the other way about.
	Tokens []string
	Scores []float32   // SPM: higher merges first; Unigram: logarithms of probabilities; nil for others
	Types  []TokenType // one per token
	Merges [][2]string // best first; nil for SPM without a merge list
	Added  []Added     // ascending ids

	BOS, EOS, UNK, SEP, PAD, CLS, MASK, EOT, EOM int
	EOG                                          []int          // more tokens that end generation, such as the list of generation_config.json
	Named                                        map[string]int // fill-in-the-middle ids that GGUF names: "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"

	Words    *Words // WordPiece
	Charsmap []byte // Unigram: SentencePiece's table of character normalization; nil for none
	// Pair says how two texts are put together, nil when it is not known.
	Pair []Part

	AddBOS, AddEOS bool
	Prefix         SpacePrefix
	TrimSpaces     bool   // SPM, Unigram: drop leading and trailing spaces, collapse runs (SentencePiece remove_extra_whitespaces)
	KeepEnd        bool   // Unigram: TrimSpaces leaves a space at the end
	AnySpace       bool   // Unigram: all white space counts as spaces
	SplitSpaces    bool   // Unigram: every ▁ starts a word that is encoded alone
	Normalize      string // "", "NFC", "NFD", "NFKC" or "NFKD"
	ByteFallback   bool   // SPM, Unigram: unknown characters become byte tokens
	FuseUnknown    bool   // adjacent unknown characters make one unknown token
	IgnoreMerges   bool   // a word that is a token is that token, whatever the merges say
	CleanSpaces    bool   // decoders are asked to drop spaces before punctuation
	ChatTemplate   string // Jinja; "" when there is none
	NamedTemplates map[string]string
	MaxLength      int // model_max_length in tokens; 0 when unknown
}

// NewSpec returns a Spec without tokens, whose special ids are all -1.
func NewSpec(m Model) *Spec {
	return &Spec{Model: m, BOS: -1, EOS: -1, UNK: -1, SEP: -1, PAD: -1, CLS: -1, MASK: -1, EOT: -1, EOM: -1}
}

// Pad appends unused tokens named "[PAD<id>]", as llama.cpp's converter does, until there are n.
// Runtimes take the number of rows of the embedding matrix from the token list.
func (s *Spec) Pad(n int) error {
	if n < len(s.Tokens) {
		return fmt.Errorf("%w: %d tokens, but only %d rows", ErrMalformed, len(s.Tokens), n)
	}
	for i := len(s.Tokens); i < n; i++ {
		s.Tokens = append(s.Tokens, padName(i))
		s.Types = append(s.Types, Unused)
		if s.Scores != nil {
			s.Scores = append(s.Scores, unusedScore)
		}
	}
	return nil
}

// unusedScore is what converters give to tokens that never merge.
const unusedScore = -1000

func padName(id int) string { return "[PAD" + strconv.Itoa(id) + "]" }

// maxTypes bounds token types; published models have two.
const maxTypes = 255

// maxTokens keeps ids, and symbols above them, within 32 bits.
const maxTokens = 1 << 28

// Check reports the first thing that is wrong with s: lists of different lengths, duplicate
// tokens, ids outside the vocabulary.
func (s *Spec) Check() error {
	n := len(s.Tokens)
	switch {
	case !slices.Contains([]Model{BPE, SPM, WordPiece, Unigram}, s.Model):
		return fmt.Errorf("%w: model %q", ErrUnsupported, s.Model)
	case (s.Model == WordPiece) != (s.Words != nil):
		return fmt.Errorf("%w: %s with choices of WordPiece or without them", ErrMalformed, s.Model)
	case n == 0 || n > maxTokens:
		return fmt.Errorf("%w: %d tokens", ErrMalformed, n)
	case len(s.Types) != n:
		return fmt.Errorf("%w: %d tokens but %d types", ErrMalformed, n, len(s.Types))
	case s.Scores != nil && len(s.Scores) != n:
		return fmt.Errorf("%w: %d tokens but %d scores", ErrMalformed, n, len(s.Scores))
	case s.Model == SPM && s.Scores == nil && s.Merges == nil:
		return fmt.Errorf("%w: neither scores nor merges", ErrMalformed)
	case s.Model == Unigram && s.Scores == nil:
		return fmt.Errorf("%w: no scores", ErrMalformed)
	}
	seen := make(map[string]int, n)
	for i, tok := range s.Tokens {
		if j, dup := seen[tok]; dup {
			return fmt.Errorf("%w: tokens %d and %d are both %q", ErrMalformed, j, i, tok)
		}
		seen[tok] = i
	}
	for _, a := range s.Added {
		if a.ID < 0 || a.ID >= n || a.Content == "" {
			return fmt.Errorf("%w: added token %q has id %d of %d", ErrMalformed, a.Content, a.ID, n)
		}
	}
	for _, id := range s.specials() {
		if *id.at < -1 || *id.at >= n {
			return fmt.Errorf("%w: %s id %d, but there are %d tokens", ErrMalformed, id.name, *id.at, n)
		}
	}
	for _, id := range s.EOG {
		if id < 0 || id >= n {
			return fmt.Errorf("%w: end-of-generation id %d, but there are %d tokens", ErrMalformed, id, n)
		}
	}
	for name, id := range s.Named {
		if id < 0 || id >= n {
			return fmt.Errorf("%w: %s id %d, but there are %d tokens", ErrMalformed, name, id, n)
		}
	}
	for _, p := range s.Pair {
		if p.ID < TextB || p.ID >= n || p.Type < 0 || p.Type > maxTypes {
			return fmt.Errorf("%w: a pair has token %d of type %d, there are %d tokens", ErrMalformed, p.ID, p.Type, n)
		}
	}
	if s.AddBOS && s.BOS < 0 || s.AddEOS && s.EOS < 0 {
		return fmt.Errorf("%w: a start or end token is to be added, but there is none", ErrMalformed)
	}
	return nil
}

// special names one of the id fields: config is its key in tokenizer_config.json ("" when it has
// none), gguf the middle of its key in GGUF.
type special struct {
	name, config, gguf string
	at                 *int
}

func (s *Spec) specials() []special {
	return []special{
		{"beginning-of-sequence", "bos_token", "bos", &s.BOS},
		{"end-of-sequence", "eos_token", "eos", &s.EOS},
		{"unknown", "unk_token", "unknown", &s.UNK},
		{"separator", "sep_token", "seperator", &s.SEP}, // the spelling is GGUF's
		{"padding", "pad_token", "padding", &s.PAD},
		{"classification", "cls_token", "cls", &s.CLS},
		{"mask", "mask_token", "mask", &s.MASK},
		{"end-of-turn", "", "eot", &s.EOT},
		{"end-of-message", "", "eom", &s.EOM},
	}
}

// escaped says whether spaces are ▁ in tokens.
func (s *Spec) escaped() bool { return s.Model == SPM || s.Model == Unigram }
