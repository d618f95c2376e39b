package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/targets/pack"
)

// work is the folder that finished stages are kept in. A stage has a folder of its own, named after
// a digest of all that its result depends on: inputs, the part of the recipe that matters, the
// tool's version, and the instruction set where activations enter. So nothing is ever invalidated;
// what fits is found again, by this run or the next.
type work struct {
	dir  string
	lock *os.File
}

// openWork makes the folder and locks it against a second run.
func openWork(dir string) (*work, error) {
	w := &work{dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, &fault.Error{File: dir, Op: "work folder", Err: err}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, &fault.Error{File: dir, Op: "work folder", Err: err}
	}
	if err := lockFile(f); err != nil {
		return nil, &fault.Error{File: dir, Op: "work folder", Err: errors.Join(fault.As(err, errors.New("another run is using it")), f.Close()), Hint: "wait for it, or give this run its own --work DIR"}
	}
	w.lock = f
	return w, nil
}

// close unlocks the folder. With remove set, what pare put there goes away: the stages and the
// lock, and the folder itself when nothing else is in it. So does what is left of a run that got
// nowhere.
func (w *work) close(remove bool) error {
	if w == nil || w.lock == nil {
		return nil
	}
	var errs []error
	if remove {
		old, err := filepath.Glob(filepath.Join(w.dir, stagePrefix+"*"))
		errs = append(errs, err)
		for _, d := range old {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	errs = append(errs, w.lock.Close())
	w.lock = nil
	if !remove { // what is kept must be worth it
		stages, err := filepath.Glob(filepath.Join(w.dir, stagePrefix+"*"))
		errs = append(errs, err)
		remove = true
		for _, d := range stages {
			remove = os.Remove(d) == nil && remove // fails when the stage holds something
		}
	}
	if remove {
		errs = append(errs, os.Remove(filepath.Join(w.dir, "lock")))
		_ = os.Remove(w.dir) // stays when the user keeps something of their own in it
	}
	return errors.Join(errs...)
}

const stagePrefix = "stage-"

// key is a digest of values; each must encode as JSON in one way only.
func key(values ...any) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, v := range values {
		if err := enc.Encode(v); err != nil {
			panic("build: a stage's key: " + err.Error()) // keys are made of plain values
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// stage is the folder of one stage's result.
type stage struct{ dir string }

// stage returns the folder for a key, made if need be.
func (w *work) stage(name, key string) (*stage, error) {
	s := &stage{filepath.Join(w.dir, stagePrefix+name+"-"+key)}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, &fault.Error{File: s.dir, Op: "work folder", Err: err}
	}
	return s, nil
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// load reads the record that finished the stage; false when there is none, or it is not whole.
func (s *stage) load(record any) bool {
	b, err := os.ReadFile(s.path("done.json"))
	return err == nil && json.Unmarshal(b, record) == nil
}

// forget removes a file of the stage.
func (s *stage) forget(name string) error {
	if err := os.Remove(s.path(name)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// finish writes the record. From now on the stage is not done again.
func (s *stage) finish(record any) error {
	b, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return pack.WriteFile(s.path("done.json"), b)
}
