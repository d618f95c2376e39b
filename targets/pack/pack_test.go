package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// folder writes files below a new folder and seals it.
func folder(t *testing.T, files map[string]string) (string, *Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pkg")
	for name, text := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	m := &Manifest{Tool: "pare test", Name: "arm64", Target: "arm64", Container: "gguf", Model: "model.gguf"}
	if err := Seal(context.Background(), dir, m, nil); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

var sample = map[string]string{"model.gguf": "weights", "assets/config.json": "{}", "assets/empty": "", "report.html": "11:52"}

func TestSealAndVerify(t *testing.T) {
	ctx := context.Background()
	dir, m := folder(t, sample)
	// sha256sum of "weights", "{}" and nothing
	want := []File{
		{"assets/config.json", 2, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
		{"assets/empty", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"model.gguf", 7, "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"},
	}
	if len(m.Files) != 3 || m.Files[0] != want[0] || m.Files[1] != want[1] || m.Files[2] != want[2] {
		t.Errorf("files %+v, want %+v (the report is left out)", m.Files, want)
	}
	got, err := ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(ctx, dir, got, nil); err != nil {
		t.Error(err)
	}
	d1, _ := m.Digest()
	d2, _ := got.Digest()
	if d1 != d2 || !strings.HasPrefix(d1, "sha256:") {
		t.Errorf("digests %s, %s", d1, d2)
	}
	for name, spoil := range map[string]func(){
		"changed": func() { os.WriteFile(filepath.Join(dir, "model.gguf"), []byte("Weights"), 0o600) },
		"longer":  func() { os.WriteFile(filepath.Join(dir, "model.gguf"), []byte("weights!"), 0o600) },
		"beside":  func() { os.WriteFile(filepath.Join(dir, "more"), nil, 0o600) },
		"link": func() {
			os.Remove(filepath.Join(dir, "model.gguf"))
			os.Symlink("assets/empty", filepath.Join(dir, "model.gguf"))
		},
	} {
		os.Remove(filepath.Join(dir, "more"))
		os.Remove(filepath.Join(dir, "model.gguf"))
		os.WriteFile(filepath.Join(dir, "model.gguf"), []byte("weights"), 0o600)
		spoil()
		if err := Verify(ctx, dir, got, nil); !errors.Is(err, ErrDigest) {
			t.Errorf("%s: %v, want ErrDigest", name, err)
		}
	}
}

func TestManifestNegative(t *testing.T) {
	digest := strings.Repeat("0", 64)
	for name, text := range map[string]string{
		"not json":     `{`,
		"other schema": `{"schema":2,"model":"."}`,
		"no model":     `{"schema":1}`,
		"model above":  `{"schema":1,"model":"../x"}`,
		"model absent": `{"schema":1,"model":"x"}`,
		"absolute":     `{"schema":1,"model":".","files":[{"path":"/etc/passwd","sha256":"` + digest + `"}]}`,
		"escape":       `{"schema":1,"model":".","files":[{"path":"a/../../x","sha256":"` + digest + `"}]}`,
		"drive":        `{"schema":1,"model":".","files":[{"path":"C:x","sha256":"` + digest + `"}]}`,
		"backslash":    `{"schema":1,"model":".","files":[{"path":"..\\x","sha256":"` + digest + `"}]}`,
		"itself":       `{"schema":1,"model":".","files":[{"path":"manifest.json","sha256":"` + digest + `"}]}`,
		"twice":        `{"schema":1,"model":".","files":[{"path":"a","sha256":"` + digest + `"},{"path":"A","sha256":"` + digest + `"}]}`,
		"negative":     `{"schema":1,"model":".","files":[{"path":"a","bytes":-1,"sha256":"` + digest + `"}]}`,
		"input":        `{"schema":1,"model":".","recipe":{"preprocess":{"x":{"value":"/etc/passwd"}}}}`,
		"input above":  `{"schema":1,"model":".","recipe":{"preprocess":{"x":{"value":"assets/../../x"}}}}`,
		"tokenizer":    `{"schema":1,"model":".","recipe":{"preprocess":{"x":{"tokenizer":"tokenizer.json"}}}}`,
		"no digest":    `{"schema":1,"model":".","files":[{"path":"a"}]}`,
	} {
		if m, err := parseManifest([]byte(text)); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// An archive is the same bytes whatever the times and modes of the files, and comes back whole.
func TestArchiveRoundTrip(t *testing.T) {
	ctx := context.Background()
	var archives [2][]byte
	for i := range archives {
		dir, m := folder(t, sample)
		if i == 1 {
			old := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
			file := filepath.Join(dir, "model.gguf")
			if err := errors.Join(os.Chtimes(file, old, old), os.Chmod(file, 0o400)); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(t.TempDir(), "a.pare")
		if err := Archive(ctx, dir, out, nil); err != nil {
			t.Fatal(err)
		}
		archives[i], _ = os.ReadFile(out)
		if !IsPackage(out) || !IsPackage(dir) || IsPackage(filepath.Join(dir, "model.gguf")) {
			t.Error("packages are not told by their content")
		}
		to := filepath.Join(t.TempDir(), "again")
		got, err := Unpack(ctx, out, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		d1, _ := m.Digest()
		d2, _ := got.Digest()
		if lies, err := ReadArchiveManifest(out); err != nil || !reflect.DeepEqual(lies, got) {
			t.Errorf("the manifest read where it lies: %v", err)
		}
		text, _ := os.ReadFile(filepath.Join(to, "assets", "config.json"))
		if d1 != d2 || string(text) != "{}" {
			t.Errorf("unpacked %s %q, packed %s", d2, text, d1)
		}
		if _, err := os.Stat(filepath.Join(to, "report.html")); err == nil {
			t.Error("the report travelled into the archive")
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of equal packages differ")
	}
}

// tarball writes a tar file as no good program would.
func tarball(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reg(name string, size int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
}

func hostile(t testing.TB) map[string][]byte {
	first := reg(ManifestName, 2)
	with := func(h ...tar.Header) []byte { return tarball(t, append([]tar.Header{first}, h...)...) }
	link := tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/etc"}
	hard := tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: ManifestName}
	dev := tar.Header{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1}
	huge := with(reg("a", 10))
	copy(huge[512+512+124:], "77777777777\x00") // the size field of the second header
	sum := 0
	for i := range 8 {
		huge[1024+148+i] = ' '
	}
	for _, c := range huge[1024:1536] {
		sum += int(c)
	}
	copy(huge[1024+148:], []byte{'0' + byte(sum>>15&7), '0' + byte(sum>>12&7), '0' + byte(sum>>9&7), '0' + byte(sum>>6&7), '0' + byte(sum>>3&7), '0' + byte(sum&7), 0, ' '})
	return map[string][]byte{
		"empty":               {},
		"nothing inside":      tarball(t),
		"no manifest":         tarball(t, reg("a", 1)),
		"manifest not first":  tarball(t, reg("a", 1), first),
		"absolute":            with(reg("/etc/passwd", 1)),
		"above":               with(reg("../x", 1)),
		"above inside":        with(reg("a/../../x", 1)),
		"not clean":           with(reg("a//b", 1)),
		"backslash":           with(reg(`..\x`, 1)),
		"drive":               with(reg("C:/x", 1)),
		"control byte":        with(reg("a\nb", 1)),
		"twice":               with(reg("a", 1), reg("a", 1)),
		"twice but for case":  with(reg("a", 1), reg("A", 1)),
		"file as folder":      with(reg("a", 1), reg("a/b", 1)),
		"folder as file":      with(reg("a/b", 1), reg("a", 1)),
		"symbolic link":       with(link),
		"hard link":           with(hard),
		"device":              with(dev),
		"folder":              with(tar.Header{Typeflag: tar.TypeDir, Name: "d/"}),
		"size beyond the end": huge,
	}
}

func TestHostileArchives(t *testing.T) {
	for name, b := range hostile(t) {
		if list, err := Index(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		dir := t.TempDir()
		file, to := filepath.Join(dir, "x.pare"), filepath.Join(dir, "to")
		os.WriteFile(file, b, 0o600)
		var fe *fault.Error
		if _, err := Unpack(context.Background(), file, to, nil); err == nil || !errors.As(err, &fe) {
			t.Errorf("%s: unpacked, %v", name, err)
		}
		if _, err := ReadArchiveManifest(file); err == nil || !errors.As(err, &fe) {
			t.Errorf("%s: its manifest was read, %v", name, err)
		}
		if _, err := os.Lstat(to); err == nil {
			t.Errorf("%s: left something behind", name)
		}
	}
	// cut short anywhere: refused, or the same list
	whole := tarball(t, reg(ManifestName, 700), reg("a/b", 3))
	want, err := Index(bytes.NewReader(whole), int64(len(whole)))
	if err != nil || len(want) != 2 || want[1] != (Entry{"a/b", 2048, 3}) {
		t.Fatalf("%+v, %v", want, err)
	}
	for n := range whole {
		list, err := Index(bytes.NewReader(whole[:n]), int64(n))
		for i, e := range list {
			if err == nil && (e != want[i] || e.Offset+e.Size > int64(n)) {
				t.Fatalf("%d bytes: %+v", n, list)
			}
		}
	}
}

func FuzzIndex(f *testing.F) {
	for _, b := range hostile(f) {
		f.Add(b)
	}
	f.Add(tarball(f, reg(ManifestName, 700), reg("a/b", 3), reg(strings.Repeat("long/", 40)+"x", 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Index(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return // refusing is fine
		}
		for _, e := range list {
			if !filepath.IsLocal(e.Name) || e.Offset < 0 || e.Size < 0 || e.Offset > int64(len(b))-e.Size {
				t.Fatalf("%+v in %d bytes", e, len(b))
			}
		}
	})
}

func TestPublish(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	to := filepath.Join(dir, "dist", "arm64")
	first, _ := folder(t, sample)
	if err := Publish(ctx, first, to, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first); err == nil {
		t.Error("published, yet still at its old place")
	}
	second, _ := folder(t, map[string]string{"model.gguf": "others"})
	err := Publish(ctx, second, to, false)
	if !errors.Is(err, ErrExists) || !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("in the way: %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(to, "model.gguf")); string(b) != "weights" {
		t.Error("overwritten without force")
	}
	if err := Publish(ctx, second, to, true); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(to, "model.gguf")); string(b) != "others" {
		t.Error("not replaced with force")
	}
	rest, _ := os.ReadDir(filepath.Join(dir, "dist"))
	if len(rest) != 1 {
		t.Errorf("left behind: %v", rest)
	}
}

// The digests are those of sha256sum.
func TestSourceDigest(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	for name, text := range map[string]string{"b": "", "a": "abc", ".hidden": "x"} {
		os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
	}
	os.Mkdir(filepath.Join(dir, "sub"), 0o755)
	const abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1
	if got, err := SourceDigest(ctx, filepath.Join(dir, "a"), nil); err != nil || got != abc {
		t.Errorf("file: %s, %v", got, err)
	}
	// printf '%s  a\n%s  b\n' (the two digests) | sha256sum
	const both = "sha256:09c7e0b8a02d027d95ec0375a600ed4ad4d6b26a1c93f16d9150cab5fec761a6"
	got, err := SourceDigest(ctx, dir, nil)
	if err != nil || got != both {
		t.Errorf("folder: %s, %v", got, err)
	}
	if n, err := InputBytes(dir); err != nil || n != 3 {
		t.Errorf("%d bytes, %v", n, err)
	}
	os.WriteFile(filepath.Join(dir, "b"), []byte("c"), 0o600)
	if changed, _ := SourceDigest(ctx, dir, nil); changed == got {
		t.Error("the digest does not see a changed file")
	}
	for _, name := range []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n-00001-of-00002.gguf"} {
		os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600)
	}
	if n, err := InputBytes(filepath.Join(dir, "m-00001-of-00002.gguf")); err != nil || n != 2 {
		t.Errorf("a split file has %d bytes, %v; want 2", n, err)
	}
	if _, err := SourceDigest(ctx, filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}
