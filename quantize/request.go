package quantize

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// Request is what a person asks for: a preset (a mix of stored types, or one type for all), or a
// uniform scheme, with exceptions by pattern.
type Request struct {
	Preset *Preset
	Scheme *storage.Scheme
	// Clip is how uniform schemes choose the range of a group.
	Clip Clip
	// Overrides name the type of single tensors; the first pattern that matches counts.
	Overrides []Override
	// Importance says how much an error of each input matters, by tensor name (the source's or an
	// alias). Nil for none; tensors without an entry are encoded without.
	Importance map[string][]float32
}

// Override gives tensors that match a pattern a type of their own. Keep leaves them as they are.
type Override struct {
	Pattern string
	Keep    bool
	Type    storage.Type
	Scheme  *storage.Scheme
}

var schemeName = regexp.MustCompile(`^int([2-8])(?:g(\d+)|-(channel|tensor))?(-asym)?$`)

// ParseRequest reads the name of a preset ("q4_k_m", "q8_0", "bf16") or of a uniform scheme:
//
//	int4g128        4 bit, groups of 128, symmetric
//	int4g128-asym   the same with zero points
//	int8            8 bit, one scale per row (also int8-channel), symmetric
//	int8-tensor     one scale per tensor
//
// Scales are stored as bf16 and uniform schemes use the clip search; callers may change both.
func ParseRequest(name string) (Request, error) {
	n := strings.ToLower(strings.TrimSpace(name))
	if p, ok := LookupPreset(n); ok {
		return Request{Preset: p}, nil
	}
	s, err := parseScheme(n)
	if err != nil {
		return Request{}, err
	}
	return Request{Scheme: s, Clip: ClipSearch}, nil
}

func parseScheme(n string) (*storage.Scheme, error) {
	m := schemeName.FindStringSubmatch(n)
	if m == nil {
		known := []string{"int4g128", "int4g32", "int8", "int8-channel", "int8-tensor", "int4g128-asym"}
		for _, p := range Presets() {
			known = append(known, p.Name)
		}
		hint := "types are " + strings.Join(known, ", ")
		var near []string
		for rest := known; ; {
			best := human.Nearest(n, rest)
			if best == "" {
				break
			}
			near = append(near, best)
			rest = slices.DeleteFunc(slices.Clone(rest), func(x string) bool { return x == best })
		}
		if len(near) > 0 && len(near) <= 4 {
			hint = fmt.Sprintf("did you mean %s?", strings.Join(near, " or "))
		}
		return nil, &fault.Error{Op: "quantize", Err: fault.As(fault.ErrMisuse, fmt.Errorf("unknown type %q", n)), Hint: hint}
	}
	s := &storage.Scheme{Group: storage.GroupChannel, Symmetric: m[4] == "", Scale: storage.BF16}
	s.Bits, _ = strconv.Atoi(m[1])
	switch {
	case m[2] != "":
		g, err := strconv.Atoi(m[2])
		if err != nil || g < 2 {
			return nil, &fault.Error{Op: "quantize", Err: fault.As(fault.ErrMisuse, fmt.Errorf("group size %s in %q", m[2], n)), Hint: "usual sizes are 32, 64 and 128"}
		}
		s.Group = g
	case m[3] == "tensor":
		s.Group = storage.GroupTensor
	}
	return s, nil
}

// ParseOverride reads "PATTERN=TYPE": TYPE is a stored type ("q6_k", "f16"), a uniform scheme, or
// "keep".
func ParseOverride(s string) (Override, error) {
	pattern, typ, ok := strings.Cut(s, "=")
	typ = strings.ToLower(strings.TrimSpace(typ))
	pattern = strings.TrimSpace(pattern)
	if !ok || pattern == "" || typ == "" {
		return Override{}, &fault.Error{Op: "quantize", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%q is not PATTERN=TYPE", s)), Hint: `write for example "*.attn_v.*=q6_k" or "output=keep"`}
	}
	if err := ir.CheckPattern(pattern); err != nil {
		return Override{}, err
	}
	o := Override{Pattern: pattern}
	if typ == "keep" {
		o.Keep = true
		return o, nil
	}
	if info, ok := storage.Lookup(storage.Type(typ)); ok && info.Encode != nil && (info.Float || info.BlockElems > 1) {
		o.Type = info.Type
		return o, nil
	}
	scheme, err := parseScheme(typ)
	if err != nil {
		return Override{}, err
	}
	o.Type, o.Scheme = storage.Planes, scheme
	return o, nil
}

// String is the spelling of the request.
func (r Request) String() string {
	switch {
	case r.Preset != nil:
		return r.Preset.Name
	case r.Scheme != nil:
		return r.Scheme.String()
	}
	return "nothing"
}

var errNothing = errors.New("neither a preset nor a scheme is given")
