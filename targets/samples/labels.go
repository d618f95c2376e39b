package samples

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/npy"
)

// maxLabels bounds a text of labels: a hundred million of them.
const maxLabels = 1 << 30

// Labels reads the right class of every sample: whole numbers in an array (.npy, idx), or one a line.
func Labels(file string) ([]int, error) {
	if strings.HasSuffix(file, ".txt") || strings.HasSuffix(file, ".csv") {
		return labelLines(file)
	}
	a, err := npy.Open(file)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if a.Elem.Kind != 'i' && a.Elem.Kind != 'u' || a.Elems() != a.Len() {
		return nil, labelFault("%s is no list of whole numbers", file)
	}
	b, err := a.All()
	if err != nil {
		return nil, err
	}
	out := make([]int, a.Len())
	for i := range out {
		var word [8]byte
		copy(word[:], b[i*a.Elem.Size:(i+1)*a.Elem.Size])
		n := binary.LittleEndian.Uint64(word[:])
		if bits := 64 - 8*a.Elem.Size; a.Elem.Kind == 'i' {
			out[i] = int(int64(n<<bits) >> bits) //nolint:gosec // the sign is meant
		} else {
			out[i] = int(min(n, 1<<31)) // larger than any class
		}
	}
	return out, nil
}

func labelLines(file string) ([]int, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fault.As(fault.ErrMisuse, err)
	}
	if st.Size() > maxLabels {
		return nil, labelFault("%s is larger than %s", file, human.Bytes(maxLabels))
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.As(fault.ErrMisuse, err)
	}
	if !human.IsText(b) {
		return nil, &fault.Error{File: file, Op: "labels", Err: fault.As(fault.ErrMisuse, errors.New("this is no text")), Hint: "one whole number a line, or an array (.npy, idx)"}
	}
	out := []int{}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		label, err := strconv.Atoi(line)
		if err != nil {
			return nil, labelFault("line %d of %s is no number", n, file)
		}
		out = append(out, label)
	}
	return out, nil
}
