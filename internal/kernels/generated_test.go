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

// Every level has every kernel: no two begin at the same place.
func TestEntries(t *testing.T) {
	for _, l := range []cpu.Level{cpu.AVX2, cpu.AVX512, cpu.NEON} {
		c := codeOf(l)
		if c == nil {
			continue // of the other architecture
		}
		seen := map[uint32]int{}
		for fn, at := range c.entry {
			if other, dup := seen[at]; dup {
				t.Errorf("%s: kernels %d and %d both begin at %#x", l, other, fn, at)
			}
			seen[at] = fn
		}
		if c.base%64 != 0 {
			t.Errorf("%s: the blob lies at %#x, not on a cache line", l, c.base)
		}
	}
}

// Where the compiler that the committed files name is installed, generating again gives the same
// files.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles C for a few seconds")
	}
	committed, err := filepath.Glob("kernels_*_*.s")
	if err != nil || len(committed) != 3 {
		t.Fatal(committed, err)
	}
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
		for _, name := range []string{name, name[:len(name)-2] + ".go"} {
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
	}
}
