//go:build !noasm && (amd64 || arm64)

package kernels

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
)

// Every level has every kernel, but for that of pairs of bfloat16: no two begin at the same place.
func TestEntries(t *testing.T) {
	for _, l := range cpu.Available()[1:] {
		seen := map[uintptr]int{}
		for fn, at := range codeOf(l) {
			if fn == fnMulPanelsPairs && (at == 0) != (l == cpu.AVX512BF16 || l == cpu.BF16) {
				continue
			}
			if other, dup := seen[at]; dup || at == 0 {
				t.Errorf("%s: kernels %d and %d both begin at %#x", l, other, fn, at)
			}
			seen[at] = fn
		}
	}
	for _, u := range units {
		if u.base%64 != 0 {
			t.Errorf("%s: a blob lies at %#x, not on a cache line", u.level, u.base)
		}
	}
}

// Where the compiler that the committed files name is installed, generating again gives the same
// files.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles C for a few seconds")
	}
	committed, err := filepath.Glob("*_*_*.s")
	if err != nil || len(committed) < 10 {
		t.Fatal(committed, err)
	}
	committed = append(committed, "entries.go", "units_amd64.go", "units_arm64.go")
	head, err := os.ReadFile(committed[0])
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`with clang (\d+\.\d+\.\d+)\.`).FindSubmatch(head)
	if pinned == nil {
		t.Fatalf("%s names no compiler", committed[0])
	}
	for _, tool := range []string{"clang-19", "ld.lld-19", "llvm-objdump-19"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s to generate", tool)
		}
	}
	if out, err := exec.Command("clang-19", "--version").Output(); err != nil || !bytes.Contains(out, append([]byte("version "), pinned[1]...)) {
		t.Skipf("needs clang %s, has %.40s (%v)", pinned[1], out, err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("./_gen/generate.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range committed {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what _gen/generate.sh makes of _gen/src", name)
		}
	}
	made, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(made) != len(committed) {
		t.Errorf("%d files are generated, %d committed (%v)", len(made), len(committed), err)
	}
}
