package main

import (
	"context"
	"os"
	"path"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

func (s *server) search(req *types.SearchDatastore_Task) (*job, *refusal) {
	p, refused := s.locate(req.DatastorePath)
	if refused != nil {
		return nil, refused
	}
	return &job{entity: &p.store.object.Self, work: func(context.Context) (types.AnyType, *refusal) {
		found, refused := list(p, req.SearchSpec)
		if refused != nil {
			return nil, refused
		}
		return *found, nil
	}}, nil
}

func (s *server) searchSubFolders(req *types.SearchDatastoreSubFolders_Task) (*job, *refusal) {
	p, refused := s.locate(req.DatastorePath)
	if refused != nil {
		return nil, refused
	}
	return &job{entity: &p.store.object.Self, work: func(context.Context) (types.AnyType, *refusal) {
		all := types.ArrayOfHostDatastoreBrowserSearchResults{}
		todo := []place{p}
		for len(todo) > 0 {
			here := todo[0]
			todo = todo[1:]
			found, refused := list(here, req.SearchSpec)
			if refused != nil {
				if here == p {
					return nil, refused
				}
				continue // gone since its parent was read
			}
			all.HostDatastoreBrowserSearchResults = append(all.HostDatastoreBrowserSearchResults, *found)
			entries, _ := os.ReadDir(here.file())
			for _, entry := range entries {
				if entry.IsDir() {
					todo = append(todo, place{here.store, path.Join(here.path, entry.Name())})
				}
			}
		}
		return all, nil
	}}, nil
}

// list is one directory. folderPath ends in "/" below the root, as ESXi writes it.
func list(p place, spec *types.HostDatastoreBrowserSearchSpec) (*types.HostDatastoreBrowserSearchResults, *refusal) {
	if spec == nil {
		spec = &types.HostDatastoreBrowserSearchSpec{}
	}
	entries, err := os.ReadDir(p.file())
	if err != nil {
		return nil, p.refusal(err)
	}
	found := &types.HostDatastoreBrowserSearchResults{Datastore: &p.store.object.Self, FolderPath: p.String()}
	if p.path != "" {
		found.FolderPath += "/"
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || strings.HasPrefix(entry.Name(), ".vsim-") || !matches(spec.MatchPattern, entry.Name()) {
			continue
		}
		if query, ok := queryFor(spec.Query, info); ok {
			found.File = append(found.File, describe(place{p.store, path.Join(p.path, entry.Name())}, info, spec.Details, query))
		}
	}
	return found, nil
}

func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return len(patterns) == 0
}

// queryFor is the first query that wants the file. Without queries everything is wanted; a query for disks shows
// their descriptors only.
func queryFor(queries []types.BaseFileQuery, info os.FileInfo) (types.BaseFileQuery, bool) {
	extension := path.Ext(info.Name())
	for _, query := range queries {
		wants := false
		switch query.(type) {
		case *types.FileQuery:
			wants = true
		case *types.FolderFileQuery:
			wants = info.IsDir()
		case *types.VmDiskFileQuery:
			wants = isDescriptor(info.Name())
		case *types.VmConfigFileQuery:
			wants = extension == ".vmx"
		case *types.VmLogFileQuery:
			wants = extension == ".log"
		case *types.IsoImageFileQuery:
			wants = extension == ".iso"
		case *types.VmNvramFileQuery:
			wants = extension == ".nvram"
		case *types.VmSnapshotFileQuery:
			wants = extension == ".vmsn"
		}
		if wants {
			return query, true
		}
	}
	return nil, len(queries) == 0
}

func describe(p place, info os.FileInfo, details *types.FileQueryFlags, query types.BaseFileQuery) types.BaseFileInfo {
	if details == nil {
		details = &types.FileQueryFlags{}
	}
	about := types.FileInfo{Path: info.Name()}
	if details.FileSize {
		about.FileSize = info.Size()
	}
	if details.Modification {
		modified := info.ModTime()
		about.Modification = &modified
	}
	if disks, ok := query.(*types.VmDiskFileQuery); ok {
		return describeDisk(p, about, details, disks)
	}
	switch extension := path.Ext(info.Name()); {
	case info.IsDir():
		return &types.FolderFileInfo{FileInfo: about}
	case !details.FileType:
		return &about
	case extension == ".vmdk":
		return &types.VmDiskFileInfo{FileInfo: about}
	case extension == ".vmx":
		return &types.VmConfigFileInfo{FileInfo: about}
	case extension == ".log":
		return &types.VmLogFileInfo{FileInfo: about}
	case extension == ".iso":
		return &types.IsoImageFileInfo{FileInfo: about}
	case extension == ".nvram":
		return &types.VmNvramFileInfo{FileInfo: about}
	}
	return &about
}

// describeDisk gives the size of a disk as what its content occupies.
func describeDisk(p place, about types.FileInfo, details *types.FileQueryFlags, query *types.VmDiskFileQuery) *types.VmDiskFileInfo {
	made := &types.VmDiskFileInfo{FileInfo: about}
	d, err := readDescriptor(p.file())
	if err != nil {
		return made
	}
	made.FileSize = 0
	for _, file := range d.files(p.file()) {
		if part, err := os.Stat(file); err == nil && details.FileSize {
			made.FileSize += blocks(part)
		}
	}
	asked := query.Details
	if asked == nil {
		return made
	}
	if asked.CapacityKb {
		made.CapacityKb = d.sectors() * sector >> 10
	}
	if asked.DiskType {
		made.DiskType = "VirtualDiskFlatVer2BackingInfo"
	}
	if asked.Thin != nil && *asked.Thin {
		made.Thin = &d.thin
	}
	if asked.DiskExtents != nil && *asked.DiskExtents {
		for _, part := range d.extents {
			made.DiskExtents = append(made.DiskExtents, place{p.store, path.Join(path.Dir(p.path), part.name)}.String())
		}
	}
	if asked.ControllerType != nil && *asked.ControllerType {
		made.ControllerType = map[string]string{
			"lsilogic": "VirtualLsiLogicController", "buslogic": "VirtualBusLogicController", "ide": "VirtualIDEController",
		}[d.adapter]
	}
	return made
}
