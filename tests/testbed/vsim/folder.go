package main

import (
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
)

// serveFolder is the datastores' HTTP side: /folder/path?dcPath=...&dsName=...
func (s *server) serveFolder(w http.ResponseWriter, r *http.Request) {
	if met := s.rules.take(r.Method+" /folder", r.URL.String()); met != nil {
		time.Sleep(time.Duration(met.Ms) * time.Millisecond)
		switch met.Kind {
		case "http":
			w.WriteHeader(met.Status)
			return
		case "drop":
			drop(w)
			return
		case "dropafter":
			s.folder(&silent{header: http.Header{}}, r)
			drop(w)
			return
		}
	}
	s.folder(w, r)
}

// silent swallows an answer.
type silent struct{ header http.Header }

func (s *silent) Header() http.Header            { return s.header }
func (s *silent) Write(data []byte) (int, error) { return len(data), nil }
func (s *silent) WriteHeader(int)                {}

func (s *server) folder(w http.ResponseWriter, r *http.Request) {
	if !s.authenticated(nil, r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	query := r.URL.Query()
	datacenter := "DC0"
	if s.esx {
		datacenter = simulator.Map.Any("Datacenter").Entity().Name
	}
	p, refused := s.locate("[" + query.Get("dsName") + "] " + strings.TrimPrefix(r.URL.Path, "/folder/"))
	if refused != nil || strings.Trim(query.Get("dcPath"), "/") != datacenter {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		s.sendFile(w, r, p)
	case http.MethodPut:
		if _, err := os.Stat(dirOf(p.file())); err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, before := os.Stat(p.file())
		if _, free := s.space(p.store); r.ContentLength > free {
			w.WriteHeader(http.StatusInsufficientStorage)
			return
		}
		if err := writeWhole(p.file(), r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.notice(p.store)
		if before != nil {
			w.WriteHeader(http.StatusCreated)
		}
	case http.MethodDelete:
		if err := os.Remove(p.file()); err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		s.notice(p.store)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (s *server) sendFile(w http.ResponseWriter, r *http.Request, p place) {
	file, err := os.Open(p.file())
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.IsDir() {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), file)
}
