package graph

import (
	"strconv"
	"strings"
)

// Text is the shape as people write it: "1x3x224x224", "batchx128", "?" for what is not known, "scalar" for
// one without dimensions.
func (s *Shape) Text() string {
	if s == nil {
		return "?"
	}
	if len(*s) == 0 {
		return "scalar"
	}
	parts := make([]string, len(*s))
	for i, d := range *s {
		switch {
		case d.Size >= 0:
			parts[i] = strconv.Itoa(d.Size)
		case d.Name != "":
			parts[i] = d.Name
		default:
			parts[i] = "?"
		}
	}
	return strings.Join(parts, "x")
}
