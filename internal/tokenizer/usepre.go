package tokenizer

import "fmt"

// UsePre makes s split words as llama.cpp does under the name pre, whatever the original did: the
// user's word for a tokenizer whose splitting has no name. The ids of rare texts may then differ
// from the original's.
func (s *Spec) UsePre(pre string) error {
	row := rowOf(pre)
	if s.Model != BPE || row == nil {
		return fmt.Errorf("%w: pre-tokenizer %q", ErrUnsupported, pre)
	}
	s.Pre, s.Splits, s.IgnoreMerges = pre, row.splits, row.ignoreMerges
	return nil
}
