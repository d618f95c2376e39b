package ir

import (
	"errors"
	"fmt"
)

// Reasons why a model cannot do what only some models can.
var (
	ErrNoArchitecture = errors.New("the architecture is not known, so the model cannot be run")
	ErrNoTokenizer    = errors.New("the model has no tokenizer")
	// ErrEncoder: embeddings can be made with the model, text cannot.
	ErrEncoder = errors.New("the model is a text encoder: it makes embeddings and predicts no text")
	// ErrNoEncoder is the reverse.
	ErrNoEncoder = errors.New("the model is no text encoder that can be run")
)

// CannotRun says why the model cannot be run as a language model, in the words of whoever read it; nil
// when it can.
func (m *Model) CannotRun() error {
	switch {
	case m.Decoder != nil:
		return nil
	case m.Encoder != nil:
		return ErrEncoder
	case m.NoDecoder != nil:
		return m.NoDecoder
	case m.Arch != "":
		return fmt.Errorf("%w (%q)", ErrNoArchitecture, m.Arch)
	}
	return ErrNoArchitecture
}

// CannotEncode says why no embeddings can be made with the model, nil when they can.
func (m *Model) CannotEncode() error {
	switch {
	case m.Encoder != nil:
		return nil
	case m.Decoder == nil && m.NoDecoder != nil:
		return m.NoDecoder
	case m.Arch != "":
		return fmt.Errorf("%w (%q)", ErrNoEncoder, m.Arch)
	}
	return ErrNoEncoder
}

// CannotRead says why the model cannot read text, nil when it can.
func (m *Model) CannotRead() error {
	switch {
	case m.Tokenizer != nil:
		return nil
	case m.NoTokenizer != nil:
		return m.NoTokenizer
	}
	return ErrNoTokenizer
}
