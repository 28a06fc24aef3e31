package testbed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PostgresOptions are all optional.
type PostgresOptions struct {
	// Port to listen on; a free port if 0.
	Port int
}

// Postgres is a server. Only this process and the Vault it configures know the administrator's password.
type Postgres struct {
	// Address is host:port. It stays the same after Stop and Start.
	Address string

	bin, dir        string
	admin, password string
	port            int
	process         *process
	// admins are connections of the administrator. Tests ask often, and each connection is a process of the server.
	admins *pgxpool.Pool
	// templated: it uses the template.
	templated bool
}

// StartPostgres creates a database in a temporary directory and waits until it accepts logins. As root it runs the
// server as user `postgres`, because PostgreSQL refuses to run as root. It returns ErrNoPostgres if PostgreSQL is not
// installed.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	bin, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	dir, err := tempDir("postgres")
	if err != nil {
		return nil, err
	}
	p := &Postgres{bin: bin, dir: dir, admin: "testbed", port: opts.Port}
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
	owner, err := daemonUser("postgres")
	if err != nil {
		return err
	}
	// The server's user owns a subdirectory.
	home := filepath.Join(p.dir, "home")
	if err := giveDir(home, owner); err != nil {
		return err
	}
	data := filepath.Join(home, "data")
	if err := p.copyTemplate(ctx, data, owner); err != nil {
		return err
	}
	p.process = newProcess(filepath.Join(p.bin, "postgres"), home, p.args(data)...)
	p.process.logPath = filepath.Join(p.dir, "postgres.log")
	p.process.credential = owner
	// Fast shutdown. SIGTERM would wait until all clients disconnect.
	p.process.stopSignal = syscall.SIGINT
	if err := p.openAdmins(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// openAdmins connects when the first statement needs it.
func (p *Postgres) openAdmins(ctx context.Context) error {
	cfg, err := pgxpool.ParseConfig(p.server())
	if err != nil {
		return err
	}
	cfg.ConnConfig.User, cfg.ConnConfig.Password, cfg.MaxConns = p.admin, p.password, 4
	p.admins, err = pgxpool.NewWithConfig(ctx, cfg)
	return err
}

func (p *Postgres) args(data string) []string {
	args := []string{"-D", data}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(p.port),
		"unix_socket_directories=",
		"max_connections=300",
		// Durability is not needed.
		"fsync=off", "synchronous_commit=off", "full_page_writes=off",
		// Never log failed statements; they may contain a password.
		"log_min_error_statement=panic",
		"password_encryption=md5", // see initdb
	} {
		args = append(args, "-c", setting)
	}
	return args
}

// template is a new database that the servers of this process copy while one of them exists: creating one takes ten
// times as long. They have the same administrator's password.
var template struct {
	sync.Mutex
	dir, data, password string
	users               int
}

// useTemplate creates the template unless there is one.
func (p *Postgres) useTemplate(ctx context.Context, owner *syscall.Credential) (err error) {
	if template.users == 0 {
		if template.dir, err = tempDir("postgres-template"); err != nil {
			return err
		}
		home := filepath.Join(template.dir, "home")
		template.data, p.password = filepath.Join(home, "data"), rand.Text()
		if err = giveDir(home, owner); err == nil {
			err = p.initdb(ctx, home, template.data, owner)
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(template.dir))
		}
		template.password = p.password
	}
	template.users++
	p.templated, p.password = true, template.password
	return nil
}

// leaveTemplate removes the template with its last user.
func (p *Postgres) leaveTemplate() error {
	template.Lock()
	defer template.Unlock()
	if !p.templated {
		return nil
	}
	p.templated = false
	if template.users--; template.users > 0 {
		return nil
	}
	return os.RemoveAll(template.dir)
}

func (p *Postgres) copyTemplate(ctx context.Context, data string, owner *syscall.Credential) error {
	template.Lock()
	defer template.Unlock()
	if err := p.useTemplate(ctx, owner); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "cp", "-a", template.data, data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copying a new database: %w\n%s", err, out)
	}
	return nil
}

// initdb passes the administrator's password in a file, because other users can read command lines.
func (p *Postgres) initdb(ctx context.Context, home, data string, owner *syscall.Credential) error {
	secret := filepath.Join(home, "password")
	if err := giveFile(secret, p.password+"\n", owner); err != nil {
		return err
	}
	defer func() { _ = os.Remove(secret) }()
	// Tests log in all the time. SCRAM would double what a login costs the server, and the client computes as much.
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "--pgdata="+data, "--no-sync", "--no-locale",
		"--encoding=UTF8", "--auth=md5", "--username="+p.admin, "--pwfile="+secret)
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// Start restarts a stopped server on the same address with its data.
func (p *Postgres) Start(ctx context.Context) error {
	if err := p.process.start(); err != nil {
		return err
	}
	return p.process.await(ctx, func(ctx context.Context) error { return p.Login(ctx, p.admin, p.password) })
}

// Stop uses the fast shutdown, which closes open connections.
func (p *Postgres) Stop() error {
	p.admins.Reset()
	return p.process.stop()
}

// Drain uses the smart shutdown. It refuses new connections and waits until the open ones close, so it aborts no
// transaction.
func (p *Postgres) Drain(ctx context.Context) error {
	p.admins.Reset()
	return p.process.drain(ctx, syscall.SIGTERM)
}

// Pause freezes the server and all its connections.
func (p *Postgres) Pause() error {
	// Pause the parent first, so that it cannot fork.
	if err := p.process.pause(); err != nil {
		return err
	}
	return p.signalChildren(syscall.SIGSTOP)
}

// Resume reverts Pause.
func (p *Postgres) Resume() error {
	return errors.Join(p.signalChildren(syscall.SIGCONT), p.process.resume())
}

// signalChildren signals the process of each connection. Each leads its own process group.
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

// Login connects as the user and runs a statement.
func (p *Postgres) Login(ctx context.Context, name, password string) error {
	conn, err := p.connect(ctx, name, password)
	if err != nil {
		return err
	}
	return errors.Join(conn.Ping(ctx), conn.Close(ctx))
}

// Users returns the roles with a name prefix. Vault's roles start with "v-".
func (p *Postgres) Users(ctx context.Context, prefix string) ([]string, error) {
	rows, err := p.admins.Query(ctx,
		`SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1) ORDER BY rolname`, prefix)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Committing counts the committed transactions that wait for a standby.
func (p *Postgres) Committing(ctx context.Context) (n int, err error) {
	err = p.admins.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(&n)
	return n, err
}

// Exec runs a statement as the administrator.
func (p *Postgres) Exec(ctx context.Context, statement string) error {
	_, err := p.admins.Exec(ctx, statement)
	return err
}

func (p *Postgres) connect(ctx context.Context, name, password string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(p.server())
	if err != nil {
		return nil, err
	}
	cfg.User, cfg.Password = name, password
	return pgx.ConnectConfig(ctx, cfg)
}

func (p *Postgres) server() string {
	return "sslmode=disable connect_timeout=10 dbname=postgres host=127.0.0.1 port=" + strconv.Itoa(p.port)
}

// Close stops the server and removes its files.
func (p *Postgres) Close() error {
	var err error
	if p.admins != nil {
		p.admins.Close()
	}
	if p.process != nil {
		// Stop instead of kill: children of a killed parent live on for a moment and use the directory.
		err = p.process.stop()
	}
	return errors.Join(err, os.RemoveAll(p.dir), p.leaveTemplate())
}
