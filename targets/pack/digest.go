package pack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// hashFile returns size and SHA-256 of a file. add, if not nil, is told of progress in bytes.
func hashFile(ctx context.Context, file string, add func(int64)) (int64, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := copyContext(ctx, h, f, add)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

// copyContext is io.Copy that stops when the context does.
func copyContext(ctx context.Context, w io.Writer, r io.Reader, add func(int64)) (total int64, err error) {
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
			if add != nil {
				add(int64(n))
			}
		}
		if err == io.EOF { //nolint:errorlint // Read returns it bare
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

var shardName = regexp.MustCompile(`^(.*)-\d{5}-of-(\d{5})(\.[a-z]+)$`)

// inputs lists the files that make up an input: the file itself, all shards of a split file, or the
// visible files at the top of a folder.
func inputs(name string) ([]string, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		if m := shardName.FindStringSubmatch(filepath.Base(name)); m != nil {
			return shards(filepath.Dir(name), m)
		}
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if st, err := os.Stat(filepath.Join(name, e.Name())); err == nil && st.Mode().IsRegular() { // Stat follows the links of model caches
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	sort.Strings(files)
	return files, nil
}

func shards(dir string, m []string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if n := shardName.FindStringSubmatch(e.Name()); n != nil && n[1] == m[1] && n[2] == m[2] && n[3] == m[3] {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	sort.Strings(files)
	return files, nil
}

// InputBytes is the size of the files that SourceDigest reads.
func InputBytes(name string) (total int64, err error) {
	files, err := inputs(name)
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		total += st.Size()
	}
	return total, nil
}

// SourceDigest names an input (model, adapter or text) by its content, "sha256:...". For one file it
// is the digest that sha256sum prints. For a folder or a split file it is the digest of lines
// "<sha256>  <base name>\n", sorted by name, which is what sha256sum prints for its visible files.
func SourceDigest(ctx context.Context, name string, add func(int64)) (string, error) {
	files, err := inputs(name)
	if err != nil {
		return "", &fault.Error{File: name, Op: "digest", Err: plain(err)}
	}
	list := sha256.New()
	for _, f := range files {
		_, sum, err := hashFile(ctx, f, add)
		if err != nil {
			return "", &fault.Error{File: f, Op: "digest", Err: plain(err)}
		}
		if len(files) == 1 && f == name {
			return "sha256:" + sum, nil
		}
		fmt.Fprintf(list, "%s  %s\n", sum, filepath.Base(f))
	}
	return "sha256:" + hex.EncodeToString(list.Sum(nil)), nil
}

// plain drops the path that package os puts into its errors, for fault.Error names it once.
func plain(err error) error {
	if pe, ok := err.(*fs.PathError); ok { //nolint:errorlint // only the outermost
		return pe.Err
	}
	return err
}
