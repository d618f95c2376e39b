//go:build !unix

package mapped

import "errors"

func mapAnonymous(int) ([]byte, error) { return nil, errors.ErrUnsupported }
