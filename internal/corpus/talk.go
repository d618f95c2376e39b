package corpus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/pare-dev/pare/internal/chat"
	"github.com/pare-dev/pare/internal/tokenizer"
)

// Talk is how a model reads conversations.
type Talk struct {
	*chat.Format
	tok   *tokenizer.Tokenizer
	added map[string]tokenizer.Added
}

// ErrMarker is the reason when a model lacks a token that a format is written with.
var ErrMarker = errors.New("the model lacks a token")

// NewTalk takes the format of a name, or that of the model's template where there is none.
func NewTalk(tok *tokenizer.Tokenizer, name string) (*Talk, error) {
	var f *chat.Format
	var err error
	template := tok.Spec().ChatTemplate
	switch {
	case name != "":
		f, err = chat.ByName(name)
	case template == "":
		err = errors.New("the model has no chat template")
	default:
		f, err = chat.Detect(template)
	}
	if err != nil {
		return nil, err
	}
	for _, m := range f.Markers() {
		if _, ok := tok.ID(m); !ok {
			return nil, fmt.Errorf("%w: %s, which %s is written with", ErrMarker, m, f.Name)
		}
	}
	t := &Talk{f, tok, map[string]tokenizer.Added{}}
	for _, a := range tok.Spec().Added {
		t.added[a.Content] = a
	}
	return t, nil
}

// Encode tokenizes a conversation as a tokenizer does that gets all of it in one piece, with the difference that markers in
// what people wrote stay plain text. learn marks what the assistant says, and the tokens that end its turns.
func (t *Talk) Encode(messages []chat.Message) (ids []int32, learn []bool, err error) {
	parts, err := t.Write(messages)
	if err != nil {
		return nil, nil, err
	}
	put := func(learned bool, more ...int32) {
		for _, id := range more {
			ids, learn = append(ids, id), append(learn, learned)
		}
	}
	if id := t.tok.BOS(); t.Starts() && id >= 0 {
		put(false, int32(id)) //nolint:gosec // a token id
	}
	for i, p := range parts {
		if p.Marker {
			id, _ := t.tok.ID(p.Text) // NewTalk made sure
			put(p.Learn, int32(id))   //nolint:gosec // a token id
			continue
		}
		text, read := p.Text, p.Read
		if i > 0 && t.added[parts[i-1].Text].RStrip { // white space belongs to the marker
			text = strings.TrimLeftFunc(text, unicode.IsSpace)
			read = max(0, read-(len(p.Text)-len(text)))
		}
		if i+1 < len(parts) && t.added[parts[i+1].Text].LStrip {
			text = strings.TrimRightFunc(text, unicode.IsSpace)
			read = min(read, len(text))
		}
		if text == "" {
			continue
		}
		more, n, err := Split(t.tok, text, read, tokenizer.EncodeOptions{Inner: i > 0})
		if err != nil {
			return nil, nil, err
		}
		put(false, more[:n]...)
		put(p.Learn, more[n:]...)
	}
	if id := t.tok.EOS(); t.Ends() && id >= 0 {
		put(false, int32(id)) //nolint:gosec // a token id
	}
	return ids, learn, nil
}

// Split tokenizes a text and says how many of its tokens are those of its first bytes: as many as these come to alone, or
// as what follows them leaves. A token that reaches across is none of these.
func Split(tok *tokenizer.Tokenizer, text string, first int, o tokenizer.EncodeOptions) (ids []int32, n int, err error) {
	if ids, err = tok.Encode(text, o); err != nil || first == 0 {
		return ids, 0, err
	}
	alone, err := tok.Encode(text[:first], o)
	if err != nil {
		return ids, 0, err
	}
	for n < min(len(alone), len(ids)) && alone[n] == ids[n] {
		n++
	}
	if n == len(alone) {
		return ids, n, nil
	}
	o.AddStart, o.Inner = false, true
	rest, err := tok.Encode(text[first:], o)
	if at := len(ids) - len(rest); err == nil && at > n && slices.Equal(ids[at:], rest) {
		n = at
	}
	return ids, n, err
}
