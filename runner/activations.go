package runner

import (
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
)

// Activations says how inputs of products are represented.
type Activations string

// Values of Activations.
const (
	// ActivationsAuto is 8-bit codes with a scale for every 32 where the weight is stored in one of
	// ggml's block types, as all runtimes of these files compute, and float32 elsewhere.
	ActivationsAuto Activations = "auto"
	// ActivationsInt8 is 8-bit codes wherever there are products for them: at present the same.
	ActivationsInt8 Activations = "int8"
	// ActivationsF32 is float32 everywhere: what the stored weights mean, without a runtime's rounding.
	ActivationsF32 Activations = "f32"
)

// AllActivations lists the values, the default first.
func AllActivations() []Activations {
	return []Activations{ActivationsAuto, ActivationsInt8, ActivationsF32}
}

func (a *Activations) check() error {
	switch *a {
	case "":
		*a = ActivationsAuto
	case ActivationsAuto, ActivationsInt8, ActivationsF32:
	default:
		return fault.As(fault.ErrMisuse, fmt.Errorf("activations %q", *a))
	}
	return nil
}
