// Package human turns numbers into the words people read, and the words people type into numbers.
// Everything that pare shows or accepts as a size, a ratio, a count or a duration goes through it,
// so that one quantity looks the same in a table, a report and an error.
package human

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// Bytes spells a size in binary units with three significant digits: "13.0 MiB", "512 B".
func Bytes(n int64) string {
	if n < 0 {
		return "-" + Bytes(-n)
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if v /= 1024; v < 999.5 || u == "PiB" {
			unit = u
			break
		}
	}
	return digits(v) + " " + unit
}

// BytesUp is Bytes rounded up, for what is at least needed: the size that is read back is enough.
func BytesUp(n int64) string {
	for x := n; ; x += max(1, n/1000) {
		text := Bytes(x)
		if back, err := ParseSize(text); err != nil || back >= n {
			return text
		}
	}
}

// Count spells a number of things with a decimal unit: "6.82 M", "399".
func Count(n int64) string {
	if n < 0 {
		return "-" + Count(-n)
	}
	if n < 10_000 {
		return strconv.FormatInt(n, 10)
	}
	v, unit := float64(n), ""
	for _, u := range []string{"k", "M", "G", "T"} {
		if v /= 1000; v < 999.5 || u == "T" {
			unit = u
			break
		}
	}
	return digits(v) + " " + unit
}

// Thousands spells a whole number with thin groups: "65 536". The separator is a plain space, so
// that it can be searched for and pasted.
func Thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return sign + b.String()
}

// Duration spells a time with the precision a reader needs: "0.2 s", "48 s", "4 min 10 s", "2 h 5 min".
func Duration(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 0:
		return "-" + Duration(-d)
	case s < 0.0995:
		return digits(s*1000) + " ms"
	case s < 9.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 119.5:
		return fmt.Sprintf("%.0f s", s)
	case s < 3600:
		n := int(math.Round(s))
		return fmt.Sprintf("%d min %d s", n/60, n%60)
	default:
		n := int(math.Round(s / 60))
		return fmt.Sprintf("%d h %d min", n/60, n%60)
	}
}

// Percent spells a fraction as a percentage: Percent(0.881, 1) is "88.1 %".
func Percent(f float64, decimals int) string {
	return strconv.FormatFloat(100*f, 'f', decimals, 64) + " %"
}

// Float spells a measured figure with three significant digits, without an exponent where a
// person can do without one: "0.0411", "61.4", "3.1e-06".
func Float(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a < 1e-4 || a >= 1e6:
		return strconv.FormatFloat(v, 'e', 1, 64)
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// digits writes three significant digits, never an exponent.
func digits(v float64) string {
	switch {
	case v >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tib": 1 << 40,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

// ParseSize reads "512MiB", "2 GiB", "1.5G" (binary) or "500MB" (decimal) as a number of bytes.
func ParseSize(s string) (int64, error) {
	t := strings.TrimSpace(s)
	cut := strings.LastIndexAny(t, "0123456789.") + 1
	f, err := strconv.ParseFloat(t[:cut], 64)
	u, known := units[strings.ToLower(strings.TrimSpace(t[cut:]))]
	if err != nil || !known || !(f >= 0) || f*u > math.MaxInt64/2 {
		return 0, fault.As(fault.ErrMisuse, fmt.Errorf("%q is not a size; write 512MiB or 2GiB", s))
	}
	return int64(math.Round(f * u)), nil
}

// ParseRatio reads "0.5" or "50%" as a fraction. It does not limit the range.
func ParseRatio(s string) (float64, error) {
	t := strings.TrimSpace(s)
	num, percent := strings.CutSuffix(t, "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fault.As(fault.ErrMisuse, fmt.Errorf("%q is not a ratio; write 0.5 or 50%%", s))
	}
	if percent {
		f /= 100
	}
	return f, nil
}
