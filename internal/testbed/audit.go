package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mark is a position in an audit log. Requests are counted from a mark.
type Mark int64

// auditLog reads the audit log of a server. Each line is read once, however often tests poll for it.
type auditLog[Entry any] struct {
	mu sync.Mutex
	// end of the last complete line that was read. The server may be writing the next one.
	end Mark
	// entries of the lines, and where each line starts.
	entries []Entry
	starts  []Mark
}

// since returns the entries of the complete lines after the mark.
func (l *auditLog[Entry]) since(mark Mark, path string, parse func([]byte) (Entry, error)) ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.catchUp(path, parse); err != nil {
		return nil, err
	}
	first, _ := slices.BinarySearch(l.starts, mark)
	return slices.Clip(l.entries[first:]), nil
}

// mark returns the end of the last complete line.
func (l *auditLog[Entry]) mark(path string, parse func([]byte) (Entry, error)) (Mark, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.catchUp(path, parse)
	return l.end, err
}

func (l *auditLog[Entry]) catchUp(path string, parse func([]byte) (Entry, error)) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(int64(l.end), io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return nil
		}
		entry, err := parse(line)
		if err != nil {
			return err
		}
		l.entries, l.starts = append(l.entries, entry), append(l.starts, l.end)
		l.end += Mark(len(line) + 1)
		text = rest
	}
}

// AuditEntry is a line of Vault's audit log. Vault hashes secrets in it, but neither path nor operation.
type AuditEntry struct {
	Time time.Time
	// Type is "request" or "response".
	Type string
	// Operation is Vault's: read, update (POST and PUT), list, delete …
	Operation string
	// Path has no leading slash: database/creds/orders.
	Path string
	// Error is set on failed responses.
	Error string
	// DisplayName of the client: kubernetes-<namespace>-<ServiceAccount>.
	DisplayName string
	// Accessor of the client's token, hashed as by AuditHash.
	Accessor string
}

// Mark returns the current end of Vault's audit log.
func (v *Vault) Mark() (Mark, error) { return v.audit.mark(v.auditPath(), parseAuditEntry) }

// Audit returns the entries since the mark; 0 is the start of the log.
func (v *Vault) Audit(since Mark) ([]AuditEntry, error) {
	return v.audit.since(since, v.auditPath(), parseAuditEntry)
}

func parseAuditEntry(line []byte) (AuditEntry, error) {
	var raw struct {
		Time  time.Time `json:"time"`
		Type  string    `json:"type"`
		Error string    `json:"error"`
		Auth  struct {
			DisplayName string `json:"display_name"`
			Accessor    string
		} `json:"auth"`
		Request struct{ Operation, Path string } `json:"request"`
	}
	err := json.Unmarshal(line, &raw)
	return AuditEntry{
		Time: raw.Time, Type: raw.Type, Error: raw.Error,
		DisplayName: raw.Auth.DisplayName, Accessor: raw.Auth.Accessor,
		Operation: raw.Request.Operation, Path: raw.Request.Path,
	}, err
}

// Requests returns the requests since the mark whose "operation path" matches the regular expression, such as `^read
// database/creds/`. It includes the testbed's own requests.
func (v *Vault) Requests(since Mark, pattern string) ([]AuditEntry, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	entries, err := v.Audit(since)
	var found []AuditEntry
	for _, e := range entries {
		if e.Type == "request" && match.MatchString(e.Operation+" "+e.Path) {
			found = append(found, e)
		}
	}
	return found, err
}

// AuditHash returns a value, such as an accessor, as hashed in the audit log.
func (v *Vault) AuditHash(ctx context.Context, value string) (string, error) {
	return v.Root.Sys().AuditHashWithContext(ctx, "file", value)
}

// APIRequest is a completed request in kube-apiserver's audit log.
type APIRequest struct {
	Time        time.Time
	User        string
	Verb        string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Code        int
	// DryRun requests store nothing.
	DryRun bool
}

// Mark returns the current end of the API server's audit log.
func (c *ControlPlane) Mark() (Mark, error) { return c.audit.mark(c.auditPath(), parseAPIRequest) }

// Requests returns the completed requests since the mark for which match returns true. The API server logs a request
// just after its response, so poll for an exact count.
func (c *ControlPlane) Requests(since Mark, match func(APIRequest) bool) ([]APIRequest, error) {
	all, err := c.audit.since(since, c.auditPath(), parseAPIRequest)
	var found []APIRequest
	for _, r := range all {
		if match(r) {
			found = append(found, r)
		}
	}
	return found, err
}

func parseAPIRequest(line []byte) (APIRequest, error) {
	var raw struct {
		StageTimestamp time.Time
		RequestURI     string
		Verb           string
		User           struct{ Username string }
		ObjectRef      struct{ Resource, Subresource, Namespace, Name string }
		ResponseStatus struct{ Code int }
	}
	err := json.Unmarshal(line, &raw)
	return APIRequest{
		Time: raw.StageTimestamp, User: raw.User.Username, Verb: raw.Verb,
		Resource: raw.ObjectRef.Resource, Subresource: raw.ObjectRef.Subresource,
		Namespace: raw.ObjectRef.Namespace, Name: raw.ObjectRef.Name, Code: raw.ResponseStatus.Code,
		DryRun: strings.Contains(raw.RequestURI, "dryRun=All"),
	}, err
}
