package report

import (
	"crypto/sha256"
	"fmt"
	"html/template"
	"regexp"
	"strings"
	"testing"
)

// chartsOf draws every chart of a report.
func chartsOf(r *Report) (all []template.HTML) {
	all = append(all, r.scatterChart())
	for i := range r.Targets {
		t := &r.Targets[i]
		all = append(all, t.layerChart(), t.klChart(), t.latencyChart())
	}
	return all
}

// Every colour is a variable of the page or a colour that CSS knows. The writer of SVG divides by
// alpha, so that a transparent fill would become a number that differs from machine to machine.
func TestChartColours(t *testing.T) {
	colour := regexp.MustCompile(`(?:fill|stroke):([^;"]*)`)
	valid := regexp.MustCompile(`^(?:none|var\(--(?:ink|grid|s[1-6])\)|#[0-9A-Fa-f]{6})$`)
	n := 0
	for _, c := range chartsOf(example()) {
		if strings.Contains(string(c), "fill:#-") {
			t.Error("a fill with a negative colour")
		}
		for _, m := range colour.FindAllStringSubmatch(string(c), -1) {
			n++
			if !valid.MatchString(m[1]) {
				t.Errorf("%q is not a colour", m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d colours were looked at", n)
	}
}

// The same record gives the same pictures on every machine. The digest is our own output; what
// counts is that amd64 and arm64, which rounds a product and a sum at once, both have it.
func TestChartsAreTheSameEverywhere(t *testing.T) {
	const want = "824cfa6ca1587e36aeb44c771c20a4dc41b3566f008a427541b776a5feaccdd0"
	h := sha256.New()
	for _, c := range chartsOf(example()) {
		h.Write([]byte(c))
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("digest %s, want %s; PARE_KEEP_PAGES=FOLDER keeps the page to look at", got, want)
	}
}
