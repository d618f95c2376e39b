package runner

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/tokenizer"
)

// Generation says how a text is continued.
type Generation struct {
	Sampling
	MaxTokens int // most tokens to add; 0: until the text or the context ends
	// StopTokens end the text and are not part of it. GenerateText adds the model's own unless
	// IgnoreEOS is set.
	StopTokens []int32
	IgnoreEOS  bool
	// Stop are strings that end the text where they begin; only GenerateText looks at them.
	Stop []string
}

// Finish is why a text ended.
type Finish string

// Values of Finish.
const (
	FinishStop    Finish = "stop"    // a stop token or string came
	FinishLength  Finish = "length"  // MaxTokens were added
	FinishContext Finish = "context" // no room is left
)

// Generate appends prompt, which is not empty, to the session and continues it: tokens are chosen one
// after another, and emit sees each as it is chosen; its error ends the call. All tokens but the
// last are part of the session afterwards. A prompt that does not fit is ErrContext.
func (s *Session) Generate(ctx context.Context, prompt []int32, g Generation, emit func(id int32) error) (Finish, error) {
	sampler, err := NewSampler(g.Sampling)
	if err != nil {
		return "", err
	}
	if len(prompt) == 0 {
		return "", &fault.Error{Op: "run", Err: fault.As(fault.ErrMisuse, errors.New("an empty prompt")), Hint: "give at least one token; tokenizers with a BOS token add it"}
	}
	text := slices.Clone(prompt)
	next := prompt
	for added := 0; ; added++ {
		if g.MaxTokens > 0 && added == g.MaxTokens {
			return FinishLength, nil
		}
		if limit := s.r.opt.Context; added > 0 && limit > 0 && s.pos+len(next) > limit {
			return FinishContext, nil
		}
		var id int32
		err := s.Append(ctx, next, WantLast, func(_ int, logits []float32) error {
			var err error
			id, err = sampler.Next(logits, text)
			return err
		})
		if err != nil {
			return "", err
		}
		if slices.Contains(g.StopTokens, id) {
			return FinishStop, nil
		}
		if err := emit(id); err != nil {
			return "", err
		}
		text = append(text, id)
		next = text[len(text)-1:]
	}
}

// errStop ends generation at a stop string.
var errStop = errors.New("stop string")

// GenerateText encodes a prompt (with the special tokens that the model expects around a text) and
// streams the continuation in pieces that are whole characters. The pieces hold back what may yet
// turn out to be a stop string.
func (s *Session) GenerateText(ctx context.Context, prompt string, g Generation, stream func(piece string) error) (Finish, error) {
	tok, err := s.r.Tokenizer()
	if err != nil {
		return "", err
	}
	ids, err := tok.Encode(prompt, tokenizer.EncodeOptions{AddSpecial: s.pos == 0, ParseSpecial: true})
	if err != nil {
		return "", err
	}
	if !g.IgnoreEOS {
		for _, id := range tok.EOG() {
			g.StopTokens = append(slices.Clone(g.StopTokens), int32(id))
		}
	}
	// The decoder sees the prompt first: it drops the space at the start of a text only.
	pieces := tok.Stream(tokenizer.DecodeOptions{SkipSpecial: true})
	for _, id := range ids {
		pieces.Next(id)
	}
	held := ""
	put := func(piece string) error {
		held += piece
		at, stopped := stopAt(held, g.Stop)
		if at > 0 {
			if err := stream(held[:at]); err != nil {
				return err
			}
			held = held[at:]
		}
		if stopped {
			held = ""
			return errStop
		}
		return nil
	}
	finish, err := s.Generate(ctx, ids, g, func(id int32) error { return put(pieces.Next(id)) })
	if err == nil {
		if err = put(pieces.Flush()); err == nil && held != "" {
			err = stream(held)
		}
	}
	if errors.Is(err, errStop) {
		return FinishStop, nil
	}
	return finish, err
}

// stopAt finds how much of text can be shown: up to the first stop string (stopped), or up to where
// the end of text could be the beginning of one.
func stopAt(text string, stops []string) (at int, stopped bool) {
	at = len(text)
	for _, s := range stops {
		if s == "" {
			continue
		}
		if i := strings.Index(text, s); i >= 0 && (i < at || i == at && !stopped) {
			at, stopped = i, true
		}
	}
	if stopped {
		return at, true
	}
	for _, s := range stops {
		for n := min(len(s)-1, len(text)); n > 0; n-- {
			if strings.HasSuffix(text, s[:n]) {
				at = min(at, len(text)-n)
				break
			}
		}
	}
	return at, false
}
