//go:build !linux

package diskfile

import (
	"errors"
	"os"
)

func setDirect(*os.File, bool) error { return errors.ErrUnsupported }

func refused(error) bool { return false }

func reserve(*os.File, int64, int64) {}
