package pack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/pare-dev/pare/internal/fault"
)

// Ext is the suffix of archives.
const Ext = ".pare"

// ErrArchive is the reason when a tar file is not one that pare wrote: links, devices, paths that
// leave the folder, names used twice, sizes beyond the file.
var ErrArchive = errors.New("not a valid package archive")

// maxEntries bounds the files of an archive.
const maxEntries = 10000

// Archive writes a sealed package folder as one tar file: the manifest first, then the files in its
// order, all with mode 0644, time 0 and no owner, so equal packages give equal bytes. The report is
// not part of it, for it holds timings.
func Archive(ctx context.Context, dir, file string, add func(int64)) error {
	m, err := ReadManifest(dir)
	if err != nil {
		return err
	}
	f, err := os.Create(file + ".part")
	if err != nil {
		return &fault.Error{File: file, Op: "archive", Err: plain(err)}
	}
	w := tar.NewWriter(f)
	for _, name := range append([]string{ManifestName}, paths(m.Files)...) {
		if err = appendFile(ctx, w, dir, name, add); err != nil {
			break
		}
	}
	err = errors.Join(err, w.Close(), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(file+".part", file)
	}
	if err != nil {
		_ = os.Remove(file + ".part")
		return &fault.Error{File: file, Op: "archive", Err: err}
	}
	return nil
}

func paths(files []File) []string {
	p := make([]string, len(files))
	for i, f := range files {
		p[i] = f.Path
	}
	return p
}

func appendFile(ctx context.Context, w *tar.Writer, dir, name string, add func(int64)) error {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: st.Size(), Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = copyContext(ctx, w, f, add)
	return err
}

// Entry is a file inside an archive.
type Entry struct {
	Name   string
	Offset int64 // of its content in the archive
	Size   int64
}

// Index lists the files of an archive without reading their contents. It refuses everything that
// Archive does not write, with ErrArchive, so that unpacking cannot surprise.
func Index(r io.ReadSeeker, size int64) ([]Entry, error) {
	bad := func(format string, a ...any) ([]Entry, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{ErrArchive}, a...)...)
	}
	t := tar.NewReader(r)
	var list []Entry
	seen := map[string]bool{}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad("%w", err)
		}
		at, err := r.Seek(0, io.SeekCurrent) // the reader stands at the content
		if err != nil {
			return nil, err
		}
		key := strings.ToLower(h.Name)
		switch {
		case h.Typeflag != tar.TypeReg:
			return bad("%q is not a regular file", h.Name)
		case !safePath(h.Name):
			return bad("the path %q leaves the package", h.Name)
		case seen[key]:
			return bad("%q twice", h.Name)
		case len(list) == maxEntries:
			return bad("more than %d files", maxEntries)
		case h.Size < 0 || h.Size > size-at:
			return bad("%q claims %d bytes, %d remain", h.Name, h.Size, size-at)
		}
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse") {
				return bad("%q is a sparse file", h.Name)
			}
		}
		for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
			if seen[dir] {
				return bad("%q lies below a file", h.Name)
			}
			seen[dir+"/"] = true
		}
		if seen[key+"/"] {
			return bad("%q is a folder and a file", h.Name)
		}
		seen[key] = true
		list = append(list, Entry{h.Name, at, h.Size})
	}
	if len(list) == 0 || list[0].Name != ManifestName {
		return bad("it does not begin with %s", ManifestName)
	}
	return list, nil
}

// ReadArchiveManifest reads the manifest of an archive where it lies and checks it, not the files.
func ReadArchiveManifest(file string) (*Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &fault.Error{File: file, Op: "archive", Err: plain(err)}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, &fault.Error{File: file, Op: "archive", Err: plain(err)}
	}
	list, err := Index(f, st.Size())
	if err != nil {
		return nil, &fault.Error{File: file, Op: "archive", Err: err}
	}
	return readManifest(io.NewSectionReader(f, list[0].Offset, list[0].Size), file)
}

// Unpack writes the files of an archive into dir, which must not exist, and checks each against the
// manifest. On an error dir is removed.
func Unpack(ctx context.Context, file, dir string, add func(int64)) (m *Manifest, err error) {
	wrap := func(err error) error {
		var fe *fault.Error
		if err == nil || errors.As(err, &fe) {
			return err
		}
		return &fault.Error{File: file, Op: "archive", Err: plain(err)}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, wrap(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, wrap(err)
	}
	list, err := Index(f, st.Size())
	if err != nil {
		return nil, wrap(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, wrap(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, e := range list {
		if err := unpackFile(ctx, f, e, dir, add); err != nil {
			return nil, wrap(err)
		}
	}
	if m, err = ReadManifest(dir); err != nil {
		return nil, err
	}
	return m, Verify(ctx, dir, m, nil)
}

func unpackFile(ctx context.Context, f *os.File, e Entry, dir string, add func(int64)) error {
	to := filepath.Join(dir, filepath.FromSlash(e.Name))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	n, err := copyContext(ctx, w, io.NewSectionReader(f, e.Offset, e.Size), add)
	if err == nil && n != e.Size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, w.Close())
}
