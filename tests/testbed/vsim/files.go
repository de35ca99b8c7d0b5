package main

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// place is a file or directory on a datastore.
type place struct {
	store *store
	path  string // "" is the datastore itself
}

func (p place) file() string { return filepath.Join(p.store.directory, p.path) }

func (p place) volumePath() string { return "/vmfs/volumes/" + p.store.name + "/" + p.path }

func (p place) String() string {
	if p.path == "" {
		return "[" + p.store.name + "]"
	}
	return "[" + p.store.name + "] " + p.path
}

func dirOf(file string) string { return filepath.Dir(file) }

var datastorePath = regexp.MustCompile(`^\[([^\]]+)\]\s*(.*?)\s*$`)

// locate reads `[datastore] path`.
func (s *server) locate(name string) (place, *refusal) {
	part := datastorePath.FindStringSubmatch(name)
	if part == nil || strings.Contains("/"+part[2]+"/", "/../") {
		return place{}, refuse(&types.InvalidDatastorePath{DatastorePath: name}, "Invalid datastore path '%s'.", name)
	}
	st, ok := s.stores[part[1]]
	if !ok {
		return place{}, refuse(&types.InvalidDatastore{Name: part[1]}, "Invalid datastore '%s'.", part[1])
	}
	return place{st, strings.Trim(path.Clean("/"+part[2]), "/")}, nil
}

// locateIn is locate for calls that name a datacenter: a vCenter insists on it, a host has only one.
func (s *server) locateIn(datacenter *ref, name string) (place, *refusal) {
	if datacenter == nil && !s.esx {
		return place{}, refuse(&types.InvalidArgument{InvalidProperty: "datacenter"},
			"A specified parameter was not correct: datacenter")
	}
	if datacenter != nil {
		if _, ok := simulator.Map.Get(*datacenter).(*simulator.Datacenter); !ok {
			return place{}, gone(*datacenter)
		}
	}
	return s.locate(name)
}

// volume reads a file name as VMX files and disk descriptors write it: `[ds] path`, `/vmfs/volumes/ds/path` or
// relative to the directory of the file it stands in.
func (s *server) volume(name, beside, directory string) (place, bool) {
	if rest := strings.TrimPrefix(name, "/vmfs/volumes/"); rest != name {
		beside, name, _ = strings.Cut(rest, "/")
		name = "[" + beside + "] " + name
	} else if !strings.HasPrefix(name, "[") {
		name = "[" + beside + "] " + path.Join(directory, name)
	}
	p, refused := s.locate(name)
	return p, refused == nil
}

// refusal is the vim fault for what the file system said, nil for no error.
func (p place) refusal(err error) *refusal {
	at := types.FileFault{File: p.String()}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errLocked):
		return refuse(&types.FileLocked{FileFault: at}, "Unable to access file %s since it is locked", p)
	case errors.Is(err, errFull), errors.Is(err, syscall.ENOSPC):
		return refuse(&types.NoDiskSpace{FileFault: at, Datastore: p.store.name},
			"Insufficient disk space on datastore '%s'.", p.store.name)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return refuse(&types.FileNotFound{FileFault: at}, "File %s was not found", p)
	case errors.Is(err, os.ErrExist), errors.Is(err, syscall.ENOTEMPTY):
		return refuse(&types.FileAlreadyExists{FileFault: at}, "Cannot complete the operation because the file or folder "+
			"%s already exists", p)
	}
	return refuse(&types.CannotAccessFile{FileFault: at}, "Unable to access file %s: %s", p, err)
}

func (s *server) measureAll() {
	for _, st := range s.stores {
		s.notice(st)
	}
}

func (s *server) refreshDatastore(req *types.RefreshDatastore) *refusal {
	for _, st := range s.stores {
		if st.object.Self == req.This {
			s.measure(st)
		}
	}
	return nil
}

func (s *server) refreshStorage(*types.RefreshStorageSystem) *refusal {
	for _, st := range s.stores {
		s.measure(st)
	}
	return nil
}

func (s *server) makeDirectory(req *types.MakeDirectory) *refusal {
	p, refused := s.locateIn(req.Datacenter, req.Name)
	if refused != nil {
		return refused
	}
	if req.CreateParentDirectories != nil && *req.CreateParentDirectories {
		if err := os.MkdirAll(dirOf(p.file()), 0o755); err != nil {
			return p.refusal(err)
		}
	}
	return p.refusal(os.Mkdir(p.file(), 0o755))
}

// pair is the source and the target of a copy or move.
func (s *server) pair(fromDC *ref, from string, toDC *ref, to string) (source, target place, refused *refusal) {
	if toDC == nil {
		toDC = fromDC
	}
	if source, refused = s.locateIn(fromDC, from); refused == nil {
		target, refused = s.locateIn(toDC, to)
	}
	return source, target, refused
}

func (s *server) copyFile(req *types.CopyDatastoreFile_Task) (*job, *refusal) {
	source, target, refused := s.pair(req.SourceDatacenter, req.SourceName, req.DestinationDatacenter, req.DestinationName)
	if refused != nil {
		return nil, refused
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if req.Force != nil && *req.Force {
		flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	}
	return &job{cancelable: true, work: func(ctx context.Context) (types.AnyType, *refusal) {
		defer s.measureAll()
		from, err := os.Open(source.file())
		if err != nil {
			return nil, source.refusal(err)
		}
		defer from.Close()
		info, err := from.Stat()
		if err != nil || info.IsDir() {
			return nil, refuse(&types.CannotAccessFile{FileFault: types.FileFault{File: source.String()}},
				"Unable to access file %s", source)
		}
		into, err := os.OpenFile(target.file(), flags, 0o644)
		if err != nil {
			return nil, target.refusal(err)
		}
		defer into.Close()
		if err := into.Truncate(info.Size()); err != nil {
			return nil, target.refusal(err)
		}
		return nil, target.refusal(s.transfer(ctx, target.store, nil, 0).data(into, from, 0))
	}}, nil
}

func (s *server) moveFile(req *types.MoveDatastoreFile_Task) (*job, *refusal) {
	source, target, refused := s.pair(req.SourceDatacenter, req.SourceName, req.DestinationDatacenter, req.DestinationName)
	if refused != nil {
		return nil, refused
	}
	return &job{work: func(context.Context) (types.AnyType, *refusal) {
		defer s.measureAll()
		info, err := os.Lstat(source.file())
		if err == nil {
			err = unused(source.file())
		}
		if err != nil {
			return nil, source.refusal(err)
		}
		if _, err := os.Stat(dirOf(target.file())); err != nil {
			return nil, target.refusal(err)
		}
		if req.Force != nil && *req.Force && !info.IsDir() {
			return nil, source.refusal(os.Rename(source.file(), target.file()))
		}
		return nil, target.refusal(renameToNew(source.file(), target.file(), info.IsDir()))
	}}, nil
}

// renameToNew never replaces anything, whatever another process does meanwhile: link(2) and rename(2) of a directory
// refuse existing targets. (rename(2) replaces an empty directory, so that is looked for first.)
func renameToNew(source, target string, directory bool) error {
	if _, err := os.Lstat(target); err == nil {
		return os.ErrExist
	}
	if directory {
		return os.Rename(source, target)
	}
	if err := os.Link(source, target); err != nil {
		return err
	}
	return os.Remove(source)
}

func (s *server) deleteFile(req *types.DeleteDatastoreFile_Task) (*job, *refusal) {
	p, refused := s.locateIn(req.Datacenter, req.Name)
	if refused != nil {
		return nil, refused
	}
	if p.path == "" {
		return nil, refuse(&types.InvalidDatastorePath{DatastorePath: req.Name}, "Invalid datastore path '%s'.", req.Name)
	}
	return &job{work: func(context.Context) (types.AnyType, *refusal) {
		defer s.measureAll()
		if _, err := os.Lstat(p.file()); err != nil {
			return nil, p.refusal(err)
		}
		if err := unused(p.file()); err != nil {
			return nil, p.refusal(err)
		}
		return nil, p.refusal(os.RemoveAll(p.file()))
	}}, nil
}

// unused is errLocked if a disk at or below this path belongs to a VM that runs.
func unused(file string) error {
	return filepath.Walk(file, func(name string, info os.FileInfo, err error) error {
		if err != nil || !isDescriptor(name) {
			return nil
		}
		held, err := lockFile(name, true)
		if err == nil {
			_ = held.Close()
		}
		if errors.Is(err, errLocked) {
			return err
		}
		return nil
	})
}

var extentFile = regexp.MustCompile(`-(flat|delta|ctk|sesparse|rdm|rdmp|[fs]\d{3})\.vmdk$`)

// isDescriptor tells X.vmdk from the files that hold its content.
func isDescriptor(name string) bool {
	return strings.HasSuffix(name, ".vmdk") && !extentFile.MatchString(name)
}
