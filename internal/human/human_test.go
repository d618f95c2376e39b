package human

import (
	"errors"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

func TestSpelling(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Bytes(0), "0 B"},
		{Bytes(1023), "1023 B"},
		{Bytes(1024), "1.00 KiB"},
		{Bytes(13_640_000), "13.0 MiB"},
		{Bytes(512 << 20), "512 MiB"},
		{Bytes(1023 << 20), "1.00 GiB"},
		{Bytes(-2048), "-2.00 KiB"},
		{Count(399), "399"},
		{Count(6_819_072), "6.82 M"},
		{Count(8_190_735_360), "8.19 G"},
		{Thousands(65536), "65 536"},
		{Thousands(-1234567), "-1 234 567"},
		{Thousands(12), "12"},
		{Duration(1500 * time.Microsecond), "1.50 ms"},
		{Duration(200 * time.Millisecond), "0.2 s"},
		{Duration(48 * time.Second), "48 s"},
		{Duration(250 * time.Second), "4 min 10 s"},
		{Duration(125 * time.Minute), "2 h 5 min"},
		{Percent(0.881, 1), "88.1 %"},
		{Float(0.04113), "0.0411"},
		{Float(61.44), "61.4"},
		{Float(3.1e-6), "3.1e-06"},
		{Float(211.50), "211.5"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]int64{
		"512MiB": 512 << 20, "2 GiB": 2 << 30, "1.5g": 3 << 29, "500MB": 500_000_000, "4096": 4096, "0": 0, "7b": 7,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1GiB", "12parsecs", "1e300TiB", "NaN"} {
		if got, err := ParseSize(in); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("ParseSize(%q) = %d, %v; want misuse", in, got, err)
		}
	}
	for in, want := range map[string]float64{"0.5": 0.5, "50%": 0.5, "4 %": 0.04, "-1": -1} {
		if got, err := ParseRatio(in); err != nil || got != want {
			t.Errorf("ParseRatio(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "%", "half", "NaN", "Inf"} {
		if _, err := ParseRatio(in); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("ParseRatio(%q): %v, want misuse", in, err)
		}
	}
}

func TestNearest(t *testing.T) {
	targets := []string{"arm64", "gpu-vllm", "x86-64-v3", "x86-64-v4"}
	for in, want := range map[string]string{
		"amr64": "arm64", "ARM64": "arm64", "x86-64-v5": "x86-64-v3", "x86": "x86-64-v3", "gpu": "gpu-vllm", "toaster": "", "": "",
	} {
		if got := Nearest(in, targets); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
	if d := distance([]rune("ca"), []rune("abc")); d != 3 { // the published example that tells OSA from Damerau-Levenshtein
		t.Errorf("distance(ca, abc) = %d, want 3", d)
	}
}
