# Found in the directory that gunicorn starts in: Keystone would take arguments of the command line for its own.
wsgi_app = "seed:application"
bind = "0.0.0.0:5000"
threads = 8
worker_tmp_dir = "/dev/shm"
