package corpus

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"math/rand/v2"
	"strings"

	"github.com/pare-dev/pare/internal/tokenizer"
)

// Text is a text that is in memory, with the name reports give it.
type Text struct {
	Name string
	Text []byte
}

// Options of Read.
type Options struct {
	Tokenizer *tokenizer.Tokenizer // nil reads token ids only
	Vocab     int                  // token ids are below it
	Limit     int                  // most tokens wanted, 0 for all
	// Shuffle puts documents in an order that depends on Seed alone; of plain text and long documents, stretches of
	// Stretch tokens. Everything is read before the limit cuts, so that it cuts anywhere.
	Shuffle bool
	Seed    uint64
	Stretch int
}

// Tokens is what was read.
type Tokens struct {
	Name   string
	SHA256 string // of the files' bytes
	IDs    []int32
	Starts []int // where documents begin, or stretches that were shuffled; ascending, the first at 0
	Exact  bool  // everything was given as token ids: no token is put in place of another

	own map[int]bool // those of Starts whose first token stays
}

var errEnough = errors.New("enough")

// reader collects documents.
type reader struct {
	ctx    context.Context
	o      Options
	digest hash.Hash
	out    Tokens
	units  []unit // in place of out while shuffling
	got    int
	talk   *Talk // once there is a conversation
}

func newDigest() hash.Hash { return sha256.New() }

func (r *reader) sum() string { return hex.EncodeToString(r.digest.Sum(nil)) }

// unit is a piece that stays whole when order is changed.
type unit struct {
	ids []int32
	own bool // a document begins here as its author began it
}

// Read reads sources, named as Parse has it, one behind the other. Plain texts that follow each other
// are one document, joined by line ends, behind the start token if the tokenizer adds one; so that a text is read as llama.cpp's tools
// read it.
func Read(ctx context.Context, sources []string, given *Text, o Options) (*Tokens, error) {
	r := &reader{ctx: ctx, o: o, digest: newDigest()}
	r.out = Tokens{Exact: true, own: map[int]bool{}}
	var names []string
	var text []string
	flush := func() error {
		if text == nil || r.full() {
			return nil
		}
		joined := strings.Join(text, "\n")
		text = nil
		return r.plain(joined)
	}
	if given != nil {
		text, names = append(text, string(given.Text)), append(names, given.Name)
	}
	if len(sources) > 0 {
		names = append(names, Name(sources))
	}
	for i, s := range sources {
		src := Parse(s)
		var err error
		if src.kind != plain {
			if err = flush(); err != nil {
				return nil, err
			}
			if i > 0 || given != nil {
				r.digest.Write([]byte{'\n'})
			}
		}
		switch src.kind {
		case plain:
			var b []byte
			if b, err = ReadText(src.Path); err == nil {
				text = append(text, string(b))
			}
		case lines:
			err = r.readLines(src)
		case array:
			err = r.readArray(src)
		}
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	r.out.Name, r.out.SHA256 = strings.Join(names, ", "), r.sum()
	r.settle()
	return &r.out, nil
}

// full says that more would be cut off.
func (r *reader) full() bool { return !r.o.Shuffle && r.o.Limit > 0 && r.got >= r.o.Limit }

// put takes a document.
func (r *reader) put(u unit) {
	r.got += len(u.ids)
	if r.o.Shuffle {
		r.units = append(r.units, u)
		return
	}
	r.join(u)
}

func (r *reader) join(u unit) {
	if len(u.ids) == 0 {
		return
	}
	at := len(r.out.IDs)
	r.out.Starts = append(r.out.Starts, at)
	if u.own {
		r.out.own[at] = true
	}
	r.out.IDs = append(r.out.IDs, u.ids...)
}

// plain takes running text.
func (r *reader) plain(text string) error {
	r.digest.Write([]byte(text))
	r.out.Exact = false
	if r.o.Tokenizer == nil {
		return refuse("", "give token ids (.npy)", "%w", errNoTokenizer)
	}
	// a token is at most a few dozen bytes; cutting the text early keeps a huge file cheap
	const perToken = 16
	limit := r.o.Limit
	if r.o.Shuffle {
		limit = 0
	}
	var ids []int32
	for cut := 0; cut < len(text); {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		end := len(text)
		if limit > 0 && limit < len(text)/perToken {
			end = boundary(text, min(len(text), cut+max((limit-r.got-len(ids))*perToken, 1<<16)))
		}
		part, err := r.o.Tokenizer.Encode(text[cut:end], tokenizer.EncodeOptions{AddStart: cut == 0})
		if err != nil {
			return err
		}
		ids = append(ids, part...)
		cut = end
		if limit > 0 && r.got+len(ids) >= limit {
			break
		}
	}
	r.put(unit{ids: ids})
	return nil
}

// boundary moves a cut forward to the next line end, so that no word is split.
func boundary(s string, at int) int {
	if i := strings.IndexByte(s[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(s)
}

// settle shuffles what waits for it, and cuts.
func (r *reader) settle() {
	if r.o.Shuffle {
		var pieces []unit
		for _, u := range r.units {
			for n := r.o.Stretch; n > 0 && len(u.ids) > n; {
				pieces = append(pieces, unit{u.ids[:n], u.own})
				u = unit{ids: u.ids[n:]}
			}
			pieces = append(pieces, u)
		}
		random := rand.New(rand.NewPCG(r.o.Seed, 0)) //nolint:gosec // to be repeated, not to be secret
		for _, i := range random.Perm(len(pieces)) {
			r.join(pieces[i])
		}
	}
	if n := r.o.Limit; n > 0 {
		r.out = *r.out.First(n)
	}
}

// First is the first n tokens.
func (t *Tokens) First(n int) *Tokens {
	out := *t
	if n < len(t.IDs) {
		out.IDs = t.IDs[:n:n]
		for len(out.Starts) > 0 && out.Starts[len(out.Starts)-1] >= n {
			out.Starts = out.Starts[:len(out.Starts)-1]
		}
	}
	return &out
}

// Key stands for the tokens and where documents begin.
func (t *Tokens) Key() string {
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, t.IDs) // a hash takes everything
	for _, s := range t.Starts {
		_ = binary.Write(h, binary.LittleEndian, int64(s))
	}
	return hex.EncodeToString(h.Sum(nil))
}
