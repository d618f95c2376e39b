package ir

import (
	"errors"
	"fmt"
)

// Reasons why a model cannot do what only some models can.
var (
	ErrNoArchitecture = errors.New("the architecture is not known, so the model cannot be run")
	ErrNoTokenizer    = errors.New("the model has no tokenizer")
)

// CannotRun says why the model cannot be run, in the words of whoever read it; nil when it can.
func (m *Model) CannotRun() error {
	switch {
	case m.Decoder != nil:
		return nil
	case m.NoDecoder != nil:
		return m.NoDecoder
	case m.Arch != "":
		return fmt.Errorf("%w (%q)", ErrNoArchitecture, m.Arch)
	}
	return ErrNoArchitecture
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
