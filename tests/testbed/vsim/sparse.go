package main

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
)

const (
	seekData, seekHole = 3, 4 // lseek(2)
	chunk              = 16 << 20
)

var (
	errLocked = errors.New("locked")
	errFull   = errors.New("datastore full")
)

// transfer is a copy under way. `room` tells what may still be written now, `wrote` is told what has been.
type transfer struct {
	ctx   context.Context
	pace  *pace
	room  func() int64
	wrote func(bytes int64)
}

// data copies what is really stored in src to dst, `at` bytes further on; holes stay holes, so that a 20 GB disk with
// 5 MB in it takes no time. When there is no more room, the copy ends there with errFull.
func (t *transfer) data(dst, src *os.File, at int64) error {
	for offset := int64(0); ; {
		start, err := src.Seek(offset, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := src.Seek(start, seekHole)
		if err != nil {
			return err
		}
		for offset = start; offset < end; {
			size := min(end-offset, t.pace.share())
			if err := t.pace.allow(t.ctx, size); err != nil {
				return err
			}
			room := t.room()
			full := size > room
			if full {
				size = room
			}
			if _, err := src.Seek(offset, io.SeekStart); err != nil {
				return err
			}
			if _, err := dst.Seek(at+offset, io.SeekStart); err != nil {
				return err
			}
			if _, err := io.CopyN(dst, src, size); err != nil { // copy_file_range(2) where the file system has it
				return err
			}
			if full {
				return errFull
			}
			offset += size
			t.wrote(size)
		}
	}
}

// stored is how many bytes data would copy.
func stored(src *os.File) (total int64) {
	for offset := int64(0); ; {
		start, err := src.Seek(offset, seekData)
		if err != nil {
			return total
		}
		if offset, err = src.Seek(start, seekHole); err != nil {
			return total
		}
		total += offset - start
	}
}

func max(a, b int64) int64 {
	if a > b {
		return a
	}
	return b
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

// lockFile is a VMFS lock: other processes on the same datastore see it, and it ends with the process that holds it.
func lockFile(file string, exclusive bool) (*os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return f, nil
}

// writeWhole replaces a file at once: a reader sees the old content or the new one.
func writeWhole(file string, content io.Reader) error {
	temporary, err := os.CreateTemp(dirOf(file), ".vsim-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(temporary, content)
	if close := temporary.Close(); err == nil {
		err = close
	}
	if err == nil {
		err = os.Chmod(temporary.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}

// blocks are the bytes a file really occupies.
func blocks(info os.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }

func fileSystemSpace(directory string) (capacity, free int64) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(directory, &stat); err != nil {
		return 0, 0
	}
	return int64(stat.Blocks) * stat.Bsize, int64(stat.Bavail) * stat.Bsize
}
