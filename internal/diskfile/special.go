package diskfile

import (
	"errors"
	"io/fs"
	"os"
)

// Special fails when what lies at path, or what a link there leads to, is neither a file nor a folder,
// and says what it is: a file renamed over a device, a pipe or a socket would take it away from all who
// use it. A path where nothing lies, or that cannot be looked at, is no failure.
func Special(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return nil //nolint:nilerr // writing there will say more
	}
	what := ""
	switch mode := st.Mode(); {
	case mode.IsRegular() || mode.IsDir():
		return nil
	case mode&fs.ModeDevice != 0:
		what = "a device"
	case mode&fs.ModeNamedPipe != 0:
		what = "a named pipe"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	default:
		what = "neither a file nor a folder"
	}
	return errors.New("this is " + what + ", which is never replaced")
}
