package testbed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions are all optional.
type PostgresOptions struct {
	// Port to listen on; a free one when 0.
	Port int
}

// Postgres is a real server with an administrator that only this process and
// the Vault it configures know.
type Postgres struct {
	// Address is host:port; it stays the same after Stop and Start.
	Address string

	bin, dir        string
	admin, password string
	port            int
	process         *process
}

// StartPostgres makes a database in a temporary folder and waits until it
// takes logins. Run by root it uses the system's user `postgres`, since the
// server refuses to be root. The error is ErrNoPostgres where it is missing.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	bin, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("postgres")
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, dir: dir, admin: "testbed", password: rand.Text(), port: opts.Port}
	if err := p.initialise(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Postgres) initialise(ctx context.Context) error {
	if p.port == 0 {
		var err error
		if p.port, err = FreePort(); err != nil {
			return err
		}
	}
	p.Address = loopback(p.port)
	owner, err := unprivileged()
	if err != nil {
		return err
	}
	// The server's user owns a folder of its own below ours.
	home := filepath.Join(p.dir, "home")
	if err := p.give(home, owner); err != nil {
		return err
	}
	data := filepath.Join(home, "data")
	if err := p.initdb(ctx, home, data, owner); err != nil {
		return err
	}
	p.process = newProcess(filepath.Join(p.bin, "postgres"), home, p.args(data)...)
	p.process.logPath = filepath.Join(p.dir, "postgres.log")
	p.process.credential = owner
	// The fast shutdown; SIGTERM would wait for every client to leave.
	p.process.stopSignal = syscall.SIGINT
	return p.Start(ctx)
}

func (p *Postgres) args(data string) []string {
	args := []string{"-D", data}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(p.port),
		"unix_socket_directories=",
		"max_connections=300",
		// Nothing in here outlives the test.
		"fsync=off", "synchronous_commit=off", "full_page_writes=off",
		// A statement that fails may hold a password: never log one.
		"log_min_error_statement=panic",
		"password_encryption=scram-sha-256",
	} {
		args = append(args, "-c", setting)
	}
	return args
}

// initdb gives the administrator's password in a file, since a command line
// is for everyone to see.
func (p *Postgres) initdb(ctx context.Context, home, data string, owner *syscall.Credential) error {
	secret := filepath.Join(home, "password")
	if err := os.WriteFile(secret, []byte(p.password+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(secret) }()
	if owner != nil {
		if err := os.Chown(secret, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "--pgdata="+data, "--no-sync", "--no-locale",
		"--encoding=UTF8", "--auth=scram-sha-256", "--username="+p.admin, "--pwfile="+secret)
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// give makes a folder for the server's user.
func (p *Postgres) give(dir string, owner *syscall.Credential) error {
	if err := os.Mkdir(dir, 0o700); err != nil || owner == nil {
		return err
	}
	return os.Chown(dir, int(owner.Uid), int(owner.Gid))
}

// unprivileged is nil when this process is not root and can be the server's
// user itself.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and needs a user: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

// Start brings a stopped server back on its address, with its data.
func (p *Postgres) Start(ctx context.Context) error {
	if err := p.process.start(); err != nil {
		return err
	}
	return p.process.await(ctx, func(ctx context.Context) error { return p.Login(ctx, p.admin, p.password) })
}

// Stop ends the server in order; open connections are cut.
func (p *Postgres) Stop() error { return p.process.stop() }

// Drain ends the server by its smart shutdown: new connections are refused, those that are open come to their own end. No
// transaction is given up half way.
func (p *Postgres) Drain(ctx context.Context) error { return p.process.drain(ctx, syscall.SIGTERM) }

// Pause freezes the server and all its connections.
func (p *Postgres) Pause() error {
	// The parent first: it must not make new children meanwhile.
	if err := p.process.pause(); err != nil {
		return err
	}
	return p.signalChildren(syscall.SIGSTOP)
}

// Resume undoes Pause.
func (p *Postgres) Resume() error {
	return errors.Join(p.signalChildren(syscall.SIGCONT), p.process.resume())
}

// signalChildren finds the connections' processes, each of which leads a group
// of its own.
func (p *Postgres) signalChildren(s syscall.Signal) error {
	pid := p.process.pid()
	if pid == 0 {
		return nil
	}
	path := fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(text)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := syscall.Kill(child, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// Login opens a connection as this user and runs a statement on it.
func (p *Postgres) Login(ctx context.Context, name, password string) error {
	conn, err := p.connect(ctx, name, password)
	if err != nil {
		return err
	}
	return errors.Join(conn.Ping(ctx), conn.Close(ctx))
}

// Users lists the roles whose name starts so; Vault's start with "v-".
func (p *Postgres) Users(ctx context.Context, prefix string) ([]string, error) {
	conn, err := p.connect(ctx, p.admin, p.password)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1) ORDER BY rolname`, prefix)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Committing counts the transactions that are committed and wait for a standby to have them too.
func (p *Postgres) Committing(ctx context.Context) (int, error) {
	conn, err := p.connect(ctx, p.admin, p.password)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var n int
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(&n)
	return n, err
}

// Exec runs a statement as the administrator.
func (p *Postgres) Exec(ctx context.Context, statement string) error {
	conn, err := p.connect(ctx, p.admin, p.password)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

func (p *Postgres) connect(ctx context.Context, name, password string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig("sslmode=disable dbname=postgres host=127.0.0.1 port=" + strconv.Itoa(p.port))
	if err != nil {
		return nil, err
	}
	cfg.User, cfg.Password, cfg.ConnectTimeout = name, password, 10*time.Second
	return pgx.ConnectConfig(ctx, cfg)
}

// Close ends the server and removes its files.
func (p *Postgres) Close() error {
	var err error
	if p.process != nil {
		// Fast, but in order: a killed parent leaves its children a moment
		// longer, and with them the folder.
		err = p.process.stop()
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
