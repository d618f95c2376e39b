package human

import (
	"slices"
	"strings"
)

// Nearest returns the known word closest to what was typed, or "" when nothing is close enough to
// be worth suggesting: a word of n letters may differ in n/3+1 edits, where swapping neighbours is
// one edit ("amr64" is one away from "arm64"). Ties go to the first in alphabetical order.
func Nearest(word string, known []string) string {
	word = strings.ToLower(word)
	best, at := "", len([]rune(word))/3+2
	sorted := slices.Sorted(slices.Values(known))
	for _, k := range sorted {
		if d := distance([]rune(word), []rune(strings.ToLower(k))); d < at {
			best, at = k, d
		}
	}
	if best == "" && len(word) >= 3 { // a beginning says enough: "x86" for "x86-64-v3"
		for _, k := range sorted {
			if strings.HasPrefix(strings.ToLower(k), word) {
				return k
			}
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions, substitutions and
// swaps of neighbours, each at cost one.
func distance(a, b []rune) int {
	two, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, prev[j]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], two[j-2]+1)
			}
		}
		two, prev, row = prev, row, two
	}
	return prev[len(b)]
}
