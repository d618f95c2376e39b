package lora

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// ParseRef splits DIR[:WEIGHT] into the folder and the weight, 1 when none is given. A folder whose
// name ends like a weight is taken as it is when it exists.
func ParseRef(ref string) (dir string, weight float32, err error) {
	i := strings.LastIndexByte(ref, ':')
	if i < 1 {
		return ref, 1, nil
	}
	w, err := strconv.ParseFloat(ref[i+1:], 32)
	if err != nil {
		return ref, 1, nil //nolint:nilerr // a colon in a path: "C:\adapter"
	}
	if _, err := os.Stat(ref); err == nil {
		return ref, 1, nil
	}
	if w == 0 || w-w != 0 {
		return "", 0, fault.As(fault.ErrMisuse, fmt.Errorf("adapter %q: weight %s merges nothing", ref[:i], ref[i+1:]))
	}
	return ref[:i], float32(w), nil
}
