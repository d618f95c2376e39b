package build

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// What is no number is not to be kept in bf16, which refuses it too; what is only too large is.
func TestAdviceOfNumbers(t *testing.T) {
	e := &engine{src: &ir.Model{Path: "m.gguf"}}
	if err := e.src.Add(&ir.Tensor{Name: "w"}); err != nil {
		t.Fatal(err)
	}
	for text, bf16 := range map[string]bool{
		fmt.Sprintf("element [0 3] is %v", math.NaN()):    false,
		fmt.Sprintf("element [0 3] is %v", math.Inf(-1)):  false,
		"q8_0: 3e+38 needs a scale beyond half precision": true,
	} {
		err := e.inSourceFile(&fault.Error{Tensor: "w", Err: fmt.Errorf("%s: %w", text, fault.ErrNotFinite)})
		if said := err.Error(); strings.Contains(said, "=bf16") != bf16 || !strings.Contains(said, "m.gguf") {
			t.Errorf("%s", said)
		}
	}
}
